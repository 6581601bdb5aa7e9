"""Which tests run on which array library.

Tests that ask for `xp` run on every library. Those that ask for none run once, in the numpy session.
``AGD_TEST_BACKEND`` names a session: only its tests are kept, and its library has to be there. Without
it everything runs, and what needs a library that is missing skips, saying so. Sessions of a GPU are
``cupy``, ``torch:cuda`` and ``jax:cuda``; ``-m gpu`` keeps all three. The session ``quick`` keeps the
tests of NumPy and array-api-strict in the files that ``helpers/quick_selection.py`` names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.array_libraries import (
    ON_GPU,
    SESSION,
    VARIANTS,
    Xp,
    missing,
    runs_session,
    tested_variants,
)
from helpers.quick_selection import QUICK_FILES, SLOW_TESTS

# The benchmarks are not in the package. The root stands last, so that the installed agd is the one under test.
sys.path.append(str(Path(__file__).parents[1]))

try:
    from hypothesis import settings
except ImportError:  # a GPU machine may have nothing but CuPy: the property tests skip there
    settings = None
else:
    settings.register_profile("agd", deadline=None, derandomize=True, max_examples=40)
    settings.load_profile("agd")


def pytest_configure(config: pytest.Config) -> None:
    known = {variant.session for variant in VARIANTS.values()}
    if SESSION and SESSION not in {*known, "quick"}:
        raise pytest.UsageError(
            f"AGD_TEST_BACKEND must be one of {sorted({*known, 'quick'})}, got {SESSION!r}"
        )
    for session in known:
        if SESSION and runs_session(session) and (reason := missing(session)):
            raise pytest.UsageError(f"AGD_TEST_BACKEND={SESSION}, but {reason}")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the files that the quick session does without, before they are imported."""
    if SESSION != "quick" or not collection_path.name.startswith("test_"):
        return None
    name = collection_path.relative_to(Path(__file__).parent).as_posix()
    return None if name in QUICK_FILES else True


def _session(item: pytest.Item) -> str:
    """Return the session that a test belongs to."""
    if marker := item.get_closest_marker("backend"):
        return str(marker.args[0])
    if item.get_closest_marker("gpu"):
        return "cupy"
    callspec = getattr(item, "callspec", None)
    variant = callspec.params.get("xp") if callspec is not None else None
    return VARIANTS[variant].session if variant is not None else "numpy"


@pytest.hookimpl(tryfirst=True)  # before -m gpu chooses by the marks that this adds
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, dropped = [], []
    for item in items:
        session = _session(item)
        if session in ON_GPU:
            item.add_marker(pytest.mark.gpu)
        slow = SESSION == "quick" and item.originalname in SLOW_TESTS
        if not runs_session(session) or slow:
            dropped.append(item)
            continue
        if reason := missing(session):
            item.add_marker(pytest.mark.skip(reason=reason))
        kept.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture(params=tested_variants())
def xp(request: pytest.FixtureRequest) -> Iterator[Xp]:
    """Give each array library in turn; variants of array-api-strict stand in for a GPU."""
    variant = VARIANTS[request.param]
    with variant.flags():
        yield variant.make()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    from agd.__main__ import main

    def run(*args: Any) -> tuple[int, str, str]:
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Give a table of five rows, whose target is `price`."""
    path = tmp_path / "small.csv"
    path.write_text("rooms,area,price\n1,30.5,3\n2,50,5.5\n3,80,7\n4,81,9.5\n5,120,11\n")
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, int]]:
    """Count the calls of the array methods that bring a value to the host."""
    counts = dict.fromkeys(("move", "other"), 0)

    def count(kind: str, cls: type, name: str) -> None:
        original = getattr(cls, name)

        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            counts[kind] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, name, counted)

    def watch(cls: type, doors: tuple[str, ...], others: tuple[str, ...]) -> dict[str, int]:
        for kind, names in (("move", doors), ("other", others)):
            for name in names:
                if hasattr(cls, name):
                    count(kind, cls, name)
        return counts

    return watch
