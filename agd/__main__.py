"""The entry point of ``python -m agd`` and of the ``agd`` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code: 0 for success, 1 for the article's descent that diverged, 2 for wrong input, 3 for a fit
        that did not converge, 130 after an interrupt, 141 where the reader of the output has left.
    """
    try:
        from agd.cli.app import run_command_line
    except KeyboardInterrupt:  # the imports take long enough to be interrupted
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("agd"):
            raise
        print(  # noqa: T201 - the command line, which would print it, cannot be imported
            f"agd: the command line needs {error.name}, which is not installed: "
            'python -m pip install "array-gd[cli]"',
            file=sys.stderr,
        )
        return 2
    return run_command_line(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
