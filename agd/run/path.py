"""The whole path of a descent on the squared loss: every epoch asked for, from one look at the data.

>>> import numpy as np
>>> from agd.run.path import path
>>> X, y = np.asarray([[0.0], [1.0], [2.0]]), np.asarray([1.0, 3.0, 5.0])
>>> path(X, y, epochs=[0, 10, 10**9]).coef[:, 0].round(6)
array([0.      , 1.939629, 2.      ])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Loss, Method, Params, Penalty
from agd._validation import as_data, as_start, flag
from agd.gradient.blocks import Blocks
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective
from agd.gradient.screening import screen
from agd.loss import Squared, get
from agd.update import Descent, Rule, Trajectory, resolve
from agd.update.trajectory import Path

__all__ = ["path"]


def path(
    X: Array,
    y: Array | None = None,
    *,
    epochs: int | Sequence[int],
    method: str | Rule | Method = "gd",
    loss: str | Loss = "squared_error",
    penalty: Penalty | None = None,
    sample_weight: Array | None = None,
    intercept: bool = True,
    init: Any = None,
) -> Path:
    r"""Return a linear model at any epochs of a descent: its whole path, for the price of one pass.

    The path is that of ``agd.fit`` with the same method. Read it as regularisation: an early epoch is a
    shrunken model, and ``agd.fit(..., stop="gcv")`` chooses one.

    Parameters
    ----------
    X, y, penalty, sample_weight, intercept, init
        As for ``agd.fit``; the penalty is None or an `L2`.
    epochs : int or sequence of int, shape (K,)
        Steps taken, 0 or more, in any order. A billion cost what one does.
    method : str or Rule
        ``"gd"``, ``"momentum"``, ``"nesterov"`` or such a rule with a constant learning rate.
    loss : str or Loss
        The squared loss: no other has a path in closed form.

    Returns
    -------
    Path
        coef (K, ..., p), intercept (K, ...), value (K, ...) and grad_norm (K, ...), the largest absolute
        partial derivative; without the first axis for a single epoch. In the library, dtype and device of
        X; infinite where the descent has outgrown the dtype.

    Raises
    ------
    ValueError
        For data that ``agd.fit`` refuses, another loss, and a method without a closed form.
    TypeError
        For another penalty, and epochs that are no whole numbers.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 3)); y = X @ np.asarray([1.0, 2.0, 3.0])
    >>> found = path(X, y, epochs=[1, 10, 100], method="nesterov")
    >>> found.coef.shape, bool(found.value[2] < found.value[1] < found.value[0])
    ((3, 3), True)
    """
    chosen, intercept = get(loss), flag("intercept", intercept)
    if type(chosen) is not Squared:
        raise ValueError(f"loss must be 'squared_error' for a path in closed form, got {loss!r}")
    mover = resolve(method, chosen)
    if not isinstance(mover, Descent):
        raise ValueError(  # noqa: TRY004 - most are names, which say nothing of types
            f"method must be 'gd', 'momentum', 'nesterov' or such a rule for a path in closed form, got "
            f"{method!r}"
        )
    data = as_data(X, y, sample_weight)
    with backends.device_context(data.X):
        with np.errstate(over="ignore"):  # weights whose sum overflows are said by the screen
            blocks = Blocks.of(*data)
        base = LinearObjective(screen(blocks, chosen).blocks, chosen, penalty, intercept)
        start = as_start(init, base.zeros(), intercept)
        whole = Trajectory.of(
            Moments.from_blocks(base.blocks),
            mover.rule,
            penalty=penalty,
            intercept=intercept,
            start=start,
        )
        return _as(base.blocks.total.dtype, _on_data(whole, base, np.asarray(epochs)).at(epochs))


def _on_data(whole: Trajectory, base: LinearObjective, epochs: Any) -> Trajectory:
    """Hold the last epoch against the data, where their dtype and the descent leave it sound."""
    if whole.parts.s.dtype != base.blocks.total.dtype or not epochs.size:
        return whole
    steps = np.full(whole.batch_shape, epochs.max())
    first, end = whole.at(0), whole.at_each(steps)
    with np.errstate(all="ignore"):
        value, grad = base.value_and_grad(Params(end.coef, end.intercept))
        xp = backends.namespace(value)
        sound = xp.isfinite(value) & (
            base.grad_norm(grad, Params(end.coef, end.intercept)) <= first.grad_norm
        )
        return whole.corrected(steps, value, grad) if backends.to_numpy(xp.all(sound)) else whole


def _as(dtype: Any, found: Path) -> Path:
    """Return the path in the data's dtype."""

    def cast(x: Array | None) -> Array | None:
        return x if x is None else backends.namespace(x).astype(x, dtype, copy=False)

    grad = Params(cast(found.grad.coef), cast(found.grad.intercept))
    return Path(
        cast(found.coef), cast(found.intercept), cast(found.value), grad, cast(found.grad_norm)
    )
