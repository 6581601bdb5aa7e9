"""Count the reads that bring values from a device to the host: by `backends.to_numpy`, and any others.

On a real device the array library reports them (the debug mode of torch for synchronisation, the methods of
CuPy). The same watch runs on libraries that stand in for a device: array-api-strict, JAX, and torch on the
CPU, where the operations that would wait for a device are known by name.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import agd
from agd import backends

# Methods of an array by which Python, NumPy or a user sees its values.
READS = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "__dlpack__")
METHODS = {
    "array-api-strict": (*READS, "to_device"),
    "torch": (*READS, "cpu", "numpy", "item", "tolist", "is_nonzero"),
    "jax": (*READS, "item", "tolist"),
    "cupy": (*READS, "get", "item", "tolist"),
}
# Operations of torch whose shape or branch depends on values: on CUDA they wait for the device.
SYNCHRONISING_OPERATIONS = (
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "is_nonzero", "repeat_interleave",
)  # fmt: skip
# On CUDA these check a status of their own after each call, which cannot be avoided.
STATUS_CHECKING_FACTORISATIONS = ("eigh", "eigvalsh", "svd", "svdvals")


class Watch:
    """The reads: `door` counts those by `backends.to_numpy`, and `past` lists the places of all others."""

    def __init__(self) -> None:
        self.door = 0
        self.past: list[str] = []
        self._allowed = 0

    @contextlib.contextmanager
    def allow(self) -> Iterator[None]:
        self._allowed += 1
        try:
            yield
        finally:
            self._allowed -= 1

    def note(self, what: str) -> None:
        if not self._allowed:
            stack = [at for at in traceback.extract_stack() if "/agd/" in at.filename]
            where = (
                f"{stack[-1].filename.rpartition('/agd/')[2]}:{stack[-1].lineno}" if stack else "?"
            )
            self.past.append(f"{what} at {where}")


WATCHED_DEVICES = {
    "device1": pytest.param("array-api-strict:device1", marks=pytest.mark.backend("strict")),
    "torch": pytest.param("torch", marks=pytest.mark.backend("torch")),
    "jax": pytest.param("jax", marks=pytest.mark.backend("jax")),
    "cupy": pytest.param("cupy", marks=pytest.mark.gpu),
    "torch:cuda": pytest.param("torch:cuda", marks=pytest.mark.backend("torch:cuda")),
}
"""The devices that are watched, and the libraries that stand in for one."""


@pytest.fixture
def ignore_convergence_warnings() -> Iterator[None]:
    """Silence the warnings of fits that stop early and of columns that are dependent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        yield


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Watch]]:
    """Give a function that watches the library and the device of an array until the end of the test."""
    with contextlib.ExitStack() as stack:

        def begin(like: Any) -> Watch:
            seen, name = Watch(), backends.of(like).name
            lifted = contextlib.nullcontext
            if name == "torch":
                lifted = _watch_torch(like, seen, monkeypatch, stack)
            _watch_methods(type(like), METHODS[name], seen, monkeypatch)
            _watch_door(like, seen, lifted, monkeypatch)
            return seen

        yield begin


def _watch_methods(cls: type, names: tuple[str, ...], seen: Watch, patch: Any) -> None:
    for name in names:
        original = getattr(cls, name, None)
        if original is None:
            continue

        def noted(
            self: Any, *args: Any, _original: Any = original, _name: str = name, **more: Any
        ) -> Any:
            seen.note(_name)
            return _original(self, *args, **more)

        patch.setattr(cls, name, noted)


def _watch_door(like: Any, seen: Watch, lifted: Callable[[], Any], patch: Any) -> None:
    row = backends.of(like)

    def to_numpy(x: Any) -> Any:
        seen.door += 1
        with seen.allow(), lifted():
            return np.array(row.to_numpy(x))

    changed = replace(row, to_numpy=to_numpy)
    patch.setitem(backends.array._ROW_BY_TYPE, type(like), changed)


def _watch_torch(like: Any, seen: Watch, patch: Any, stack: contextlib.ExitStack) -> Any:
    """Let operations that wait for a CUDA device raise, and on the CPU note them."""
    import torch

    lifted: Any = contextlib.nullcontext
    if like.device.type == "cuda":
        stack.callback(_set_sync_mode, torch.cuda.get_sync_debug_mode())
        _set_sync_mode("error")
        lifted = _sync_allowed
    else:
        stack.enter_context(_note_synchronising(seen))
        _watch_creation(seen, patch)
    for name in STATUS_CHECKING_FACTORISATIONS:
        original = getattr(torch.linalg, name)

        def factorise(*args: Any, _original: Any = original, **more: Any) -> Any:
            with seen.allow(), lifted():
                return _original(*args, **more)

        patch.setattr(torch.linalg, name, factorise)
        patch.setattr(backends.namespace(like).linalg, name, factorise)
    return lifted


def _set_sync_mode(mode: Any) -> None:
    """Set what torch does with an operation that waits for the device, without its warning of a new mode."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


@contextlib.contextmanager
def _sync_allowed() -> Iterator[None]:
    _set_sync_mode("default")
    try:
        yield
    finally:
        _set_sync_mode("error")


def _note_synchronising(seen: Watch) -> Any:
    """Note the operations that would wait for a device."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = func.overloadpacket.__name__
            if name in SYNCHRONISING_OPERATIONS or _indexes_by_mask(name, args):
                seen.note(name)
            return func(*args, **(kwargs or {}))

    return Noted()


def _indexes_by_mask(name: str, args: Any) -> bool:
    """Return whether an operation indexes by a mask, other than to fill entries with one number."""
    import torch

    if name == "index_put_" and args[2].numel() == 1:
        return False
    masked = name in {"index", "index_put", "index_put_"}
    return masked and any(i is not None and i.dtype in {torch.bool, torch.uint8} for i in args[1])


def _watch_creation(seen: Watch, patch: Any) -> None:
    """Note arrays made of host numbers outside `backends`: on CUDA such a copy waits for the device."""
    import array_api_compat.torch as xp
    import torch

    for module, name in (
        (xp, "asarray"),
        (torch, "asarray"),
        (torch, "tensor"),
        (torch, "as_tensor"),
    ):
        original = getattr(module, name)

        def made(
            data: Any, *args: Any, _original: Any = original, _name: str = name, **more: Any
        ) -> Any:
            if not isinstance(data, torch.Tensor) and "_torch_convert" not in _callers():
                seen.note(f"{_name} of {type(data).__name__}")
            return _original(data, *args, **more)

        patch.setattr(module, name, made)


def _callers() -> set[str]:
    return {at.name for at in traceback.extract_stack()}
