"""The form of every error of the command line: one line on stderr, and exit code 2."""

from __future__ import annotations


def single_error_line(code: int, out: str, err: str) -> str:
    """Assert exit code 2, nothing on stdout and one line on stderr, and return it."""
    assert code == 2
    assert out == ""
    assert err.startswith("agd: ")
    assert err.count("\n") == 1
    return err
