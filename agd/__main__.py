"""``python -m agd`` and the ``agd`` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: 0 for success, 1 for a fit that did not converge or descent that diverged, 2
        for anything that is wrong with the input, 130 after an interrupt.
    """
    try:
        from agd.cli.app import execute
    except KeyboardInterrupt:  # the imports take a while
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("agd"):
            raise
        print(  # noqa: T201 - before the command line there is nothing else to say it with
            f"agd: the command line needs {error.name}, which is not installed: "
            'python -m pip install "array-gd[cli]"',
            file=sys.stderr,
        )
        return 2
    return execute(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
