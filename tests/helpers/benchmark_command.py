"""Run the command of the benchmarks, and time their cases without the pause between two calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["ROOT", "no_pauses", "run_benchmarks"]

ROOT = Path(__file__).parents[2]

from benchmarks.timing import measurement


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks as a user does, once each."""
    line = [sys.executable, "-m", "benchmarks", "--rounds", "1", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SETTLE", 0.0)
