"""What tests of the benchmarks share: where these are, their command, and no rest between calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["ROOT", "at_once", "command"]

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # behind the installed packages: agd stays the one under test

from benchmarks import cases


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks as a user does, once each."""
    line = [sys.executable, "-m", "benchmarks", "--rounds", "1", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "SETTLE", 0.0)
