"""Door: the article itself. Gradient descent fits a line, in three formulas.

The model is h(x) = w1 x + w0, the loss L = 1/(2m) Σ (h(x) - y)². Its gradient points uphill, so each
step goes against it, by a learning rate lr::

    dL/dw0 = 1/m Σ (h(x) - y)          w0 := w0 - lr dL/dw0
    dL/dw1 = 1/m Σ (h(x) - y) x        w1 := w1 - lr dL/dw1

This file is the introduction: it may be read in a minute. ``agd.fit`` is the same idea for any loss
and any number of columns.

>>> final = train(num_epochs=2, weights={"w0": 0.0, "w1": 0.0}, backend="numpy")
[Initial Weights] w0: 0.0, w1: 0.0
--------------------------------------------------------------------------------
Epoch 0: Loss: 25.625, w0: 0.05657142857142857, w1: 0.2542857142857143
Epoch 1: Loss: 17.919394682215746, w0: 0.10426253061224489, w1: 0.46165159183673465
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

from agd import backends
from agd._typing import Array
from agd._validation import as_count, as_line, as_line_weights, as_positive
from agd.data.dask import sum_over_rows

__all__ = ["gradient_descent", "loss_fn", "train"]

X = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
Y = (5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 9.0)  # the line y = x/2 + 5


def loss_fn(pred: Any, y: Any) -> Any:
    """Return half the mean squared error, 1/(2m) Σ (pred - y)².

    Parameters
    ----------
    pred, y : array, shape (m,)
        Predictions and targets, of one library.

    Returns
    -------
    array, shape ()
        The loss, where the arrays are.

    Examples
    --------
    >>> import numpy as np
    >>> float(loss_fn(np.asarray([1.0, 3.0]), np.asarray([1.0, 1.0])))
    1.0
    """
    squares = backends.namespace(pred, y).sum((pred - y) ** 2)
    return 1 / (2 * _rows(y)) * squares


def gradient_descent(
    x: Any, y: Any, weights: Mapping[str, Any], lr: float = 0.01
) -> tuple[Any, dict[str, Any]]:
    """Take one step of gradient descent on the line w1 x + w0.

    Parameters
    ----------
    x, y : array, shape (m,)
        The points, of one library.
    weights : mapping
        ``{"w0": ..., "w1": ...}``, numbers or 0-d arrays; it is not written to.
    lr : float
        The learning rate.

    Returns
    -------
    loss : array, shape ()
        The loss before the update.
    weights : dict
        The new weights.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.asarray([1.0, 2.0]), np.asarray([1.0, 3.0])
    >>> loss, weights = gradient_descent(x, y, {"w0": 0.0, "w1": 0.0}, lr=0.1)
    >>> float(loss), float(weights["w0"]), float(weights["w1"])
    (2.5, 0.2, 0.35000000000000003)
    """
    w0, w1 = weights["w0"], weights["w1"]

    def sums(x: Array, y: Array) -> tuple[Any, Array, Array, Array]:
        pred, xp = w1 * x + w0, backends.namespace(x, y)
        error = pred - y
        return y.shape[0], xp.sum(error**2), xp.sum(error), xp.sum(error * x)

    # For an array in memory this is sums(x, y); lazy chunks are summed where they are, in one graph.
    m, squares, errors, products = sum_over_rows(sums, x, y)
    dw0, dw1 = 1 / m * errors, 1 / m * products
    return 1 / (2 * m) * squares, {"w0": w0 - lr * dw0, "w1": w1 - lr * dw1}


def train(
    x: Any = None,
    y: Any = None,
    *,
    num_epochs: int = 5000,
    learning_rate: float = 8e-3,
    weights: Mapping[str, float] | None = None,
    seed: int | None = None,
    backend: str = "auto",
    every: int = 500,
    file: TextIO | None = None,
) -> dict[str, float]:
    """Fit a line by gradient descent and print the article's table.

    Parameters
    ----------
    x, y : array, shape (m,), optional
        The points; by default the article's seven, on the line y = x/2 + 5.
    num_epochs : int
        The number of steps.
    learning_rate : float
        lr; above 2/L, the largest stable step, descent diverges.
    weights : mapping, optional
        The first ``{"w0": ..., "w1": ...}``; by default two draws from a standard normal.
    seed : int, optional
        The seed of these draws, made on the host and so the same on every backend.
    backend : str
        Where the article's points are made: what ``agd.backends.select`` takes. Points that are given
        stay where they are.
    every : int
        A line is printed for every so many epochs, and for the last.
    file : text file, optional
        Where to print; the standard output by default.

    Returns
    -------
    dict
        The final weights, as Python floats.

    Raises
    ------
    ValueError, TypeError
        If an argument is none that can be used; the message names it.
    FloatingPointError
        If the loss stops being finite; the message names the largest stable step.

    Examples
    --------
    >>> import io
    >>> found = train(weights={"w0": 0.0, "w1": 0.0}, backend="numpy", file=io.StringIO())
    >>> round(found["w0"], 3), round(found["w1"], 3)
    (4.999, 0.5)
    """
    num_epochs, every = as_count("num_epochs", num_epochs), as_count("every", every)
    lr = as_positive("learning_rate", learning_rate)
    x, y = as_line(x, y) if (x is not None or y is not None) else _article(backend)
    current = dict(as_line_weights(weights, seed))
    print(
        f"[Initial Weights] w0: {current['w0']}, w1: {current['w1']}", "-" * 80, sep="\n", file=file
    )
    for epoch in range(num_epochs):
        with np.errstate(over="ignore", invalid="ignore"):  # said below, in words
            loss, current = gradient_descent(x, y, current, lr)
        if epoch % every == 0 or epoch == num_epochs - 1:
            shown, w0, w1 = (_as_number(v) for v in (loss, current["w0"], current["w1"]))
            if not math.isfinite(shown + w0 + w1):
                raise FloatingPointError(_overflow_words(x, lr, epoch, weights))
            print(f"Epoch {epoch}: Loss: {shown}, w0: {w0}, w1: {w1}", file=file)
    return {"w0": w0, "w1": w1}


def _rows(y: Array) -> float | Array:
    """Return m: a number, or for lazy rows of unknown number their lazy count."""
    m: float = y.shape[0]  # NaN where it is not known
    if isinstance(m, int) or not math.isnan(m):
        return m
    return backends.namespace(y).sum(backends.namespace(y).ones_like(y))


def _article(backend: str) -> tuple[Array, Array]:
    chosen = backends.select(backend)
    return chosen.asarray(X), chosen.asarray(Y)


def _as_number(value: Any) -> float:
    return float(value) if isinstance(value, float) else float(backends.to_numpy(value))


def _overflow_words(x: Array, lr: float, epoch: int, weights: Any) -> str:
    """Name the largest stable step, 2/L with L the largest eigenvalue of [[1, Ex], [Ex, Ex²]]."""
    host = backends.to_numpy(x)
    mean, square = float(np.mean(host)), float(np.mean(host**2))
    largest = 0.5 * (1.0 + square + math.hypot(1.0 - square, 2.0 * mean))
    if lr < 2.0 / largest:
        return (
            f"the loss is not finite by epoch {epoch}: its square overflows from the weights {weights!r}, or "
            f"these points; begin with smaller ones"
        )
    return (
        f"the loss is not finite by epoch {epoch}: learning_rate {lr!r} is above 2/L = "
        f"{2.0 / largest:.6g}, the largest stable step for these points"
    )
