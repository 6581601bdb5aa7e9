"""What is minimised: losses of the linear predictor z, penalties and constraints on the coefficients.

A loss knows nothing of X: it maps z = X @ w + b and y, element by element, to l(z, y) and its derivatives
in z. The objectives of ``agd.gradient`` sum it over the data and add the penalty. A loss class that is in
its file's ``__all__`` is available under its ``name`` with nothing more to register.

>>> import numpy as np
>>> from agd.loss import Huber
>>> Huber(delta=1.0).value(np.asarray([0.5, 3.0]), np.asarray([0.0, 0.0]))
array([0.125, 2.5  ])
"""

from __future__ import annotations

from agd._typing import Array, Loss
from agd._validation import as_choice
from agd.loss import (
    classification,
    constraints,
    counts,
    penalties,
    regression,
    structured_penalties,
)
from agd.loss.base import BaseLoss, BasePenalty, PenaltySum, as_loss
from agd.loss.classification import *
from agd.loss.constraints import *
from agd.loss.counts import *
from agd.loss.penalties import *
from agd.loss.regression import *
from agd.loss.structured_penalties import *

__all__ = [
    "LOSSES",
    "BaseLoss",
    "BasePenalty",
    "PenaltySum",
    "get",
    "sum_and_slope",
    "value_and_slope",
]
__all__ += classification.__all__
__all__ += counts.__all__
__all__ += penalties.__all__
__all__ += regression.__all__
__all__ += constraints.__all__
__all__ += structured_penalties.__all__

LOSSES: dict[str, type[BaseLoss]] = {
    getattr(module, name).name: getattr(module, name)
    for module in (regression, classification, counts)
    for name in module.__all__
}
"""Losses by the names that scikit-learn gives them."""

OTHER_NAMES = {
    "squared_error": (
        "squared",
        "mse",
        "rmse",
        "l2",
        "least_squares",
        "ols",
        "squared_loss",
        "gaussian",
        "normal",
    ),
    "absolute_error": ("absolute", "mae", "l1", "lad", "median", "laplace"),
    "quantile": ("pinball", "check"),
    "log_loss": (
        "logistic",
        "logit",
        "probit",
        "bernoulli",
        "binary_cross_entropy",
        "bce",
        "deviance",
    ),
    "softmax": (
        "cross_entropy",
        "categorical_cross_entropy",
        "multinomial",
        "multi_logloss",
        "nll",
    ),
    "binomial": ("fractional_logit", "shares"),
    "hinge": ("svm", "svc", "linear_svc"),
    "epsilon_insensitive": ("svr", "linear_svr"),
    "modified_huber": ("smoothed_hinge",),
    "soft_l1": ("pseudo_huber", "charbonnier", "log_cosh"),
    "tukey": ("biweight", "bisquare"),
    "cauchy": ("lorentzian", "lorentz"),
    "poisson": ("counts", "log_linear"),
    "negative_binomial": ("negbin", "nb", "nb2"),
    "inverse_gaussian": ("wald", "inv_gauss"),
}
"""What others call these losses; `get` names the loss that is meant, and does not take them."""


def get(loss: str | Loss) -> Loss:
    """Return the loss of this name, with its default parameters; a loss passes through.

    Parameters
    ----------
    loss : str or Loss
        ``"squared_error"``, ``"huber"``, ``"log_loss"``, ``"poisson"`` or another key of `LOSSES`, or
        an object that follows the protocol.

    Returns
    -------
    Loss
        The loss.

    Raises
    ------
    ValueError
        If no loss has this name; the message has the one that other libraries call so, or the nearest.
    TypeError
        If `loss` is neither a name nor a loss.

    Examples
    --------
    >>> get("huber")
    Huber(delta=1.35)
    """
    if isinstance(loss, str):
        _refuse_other_name(loss)
        return LOSSES[as_choice("loss", loss, tuple(LOSSES))]()
    return as_loss(loss)


def _refuse_other_name(name: str) -> None:
    """Name the loss that another library's name stands for; spelling would suggest one of other meaning."""
    if name in LOSSES:
        return
    key = name.lower().replace("-", "_").replace(" ", "_")
    for meant, others in OTHER_NAMES.items():
        if key in others or key == meant:
            raise ValueError(
                f"loss must be one of {', '.join(LOSSES)}, got {name!r}; did you mean {meant!r}?"
            )


def value_and_slope(loss: Loss, z: Array, y: Array) -> tuple[Array, Array]:
    """Return l(z, y) and dl/dz, shapes (..., n): the earlier spelling of ``value_and_gradient``.

    Examples
    --------
    >>> import numpy as np
    >>> value_and_slope(get("squared_error"), np.asarray([3.0]), np.asarray([1.0]))
    (array([2.]), array([2.]))
    """
    return as_loss(loss).value_and_gradient(z, y)


def sum_and_slope(loss: Loss, z: Array, y: Array) -> tuple[Array, Array]:
    """Return the sum of l(z, y) over the rows, shape (...), and dl/dz of each, shape (..., n).

    It is the earlier spelling of ``sum_and_gradient``.

    Examples
    --------
    >>> import numpy as np
    >>> total, slope = sum_and_slope(get("squared_error"), np.asarray([3.0, 2.0]), np.ones(2))
    >>> float(total), slope
    (2.5, array([2., 1.]))
    """
    return as_loss(loss).sum_and_gradient(z, y)
