"""What came of a linear fit: a run's result, with the model's coefficients and predictions."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agd import backends
from agd._typing import Array, Loss
from agd._validation import as_features, check_columns
from agd.gradient.blocks import forward
from agd.gradient.screening import Screened
from agd.run.result import Result

__all__ = ["FitResult", "fitted"]


@dataclass(frozen=True, repr=False)
class FitResult(Result):
    """What `fit` returns: a `Result` with the model's coefficients and predictions.

    Attributes
    ----------
    coef : array, shape (p,) or (..., p)
        The coefficients, in the units of X's columns.
    intercept : array, shape () or (...), or None
        The constant term; None if the model has none.
    loss : Loss
        The loss that was minimised.
    classes : tuple of float, or None
        For a loss of two classes, the labels of the first and the second.
    n_passes : int, or None
        Of data in chunks, how often they were read from end to end; for Dask, each time by one graph.
        None for arrays in memory.
    feature_names : list of str, or None
        The names of X's columns, where it was a frame with such names. Rows to predict for that have
        names as well must have these, in this order.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> found = agd.fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1], loss="log_loss")
    >>> found.predict(np.asarray([[0.0], [3.0]]))
    array([0., 1.])
    """

    coef: Array
    intercept: Array | None
    loss: Loss
    classes: tuple[float, float] | None
    n_passes: int | None = None
    feature_names: list[str] | None = None

    def decision_function(self, X: Array) -> Array:
        """Return the linear predictor z = X @ coef + intercept.

        Parameters
        ----------
        X : array, sparse matrix or frame, shape (..., n, p)
            Rows, of the columns that were fitted.

        Returns
        -------
        array, shape (..., n)
            z.

        Raises
        ------
        ValueError, TypeError
            If X has another number of columns, another library or another device, or is a frame whose
            columns are not named, and ordered, as those that were fitted.
        """
        check_columns(X, self.feature_names)
        X = as_features(X, self.coef)
        z = forward(X, self.coef)
        return z if self.intercept is None else z + self.intercept[..., None]

    def predict(self, X: Array) -> Array:
        """Return what the model expects of y: its mean, or for two classes the likelier label.

        Parameters
        ----------
        X : array or sparse matrix, shape (..., n, p)
            Rows, of the columns that were fitted.

        Returns
        -------
        array, shape (..., n)
            Predictions, in the units (or labels) of y.
        """
        z = self.decision_function(X)
        if self.classes is None:
            return self.loss.predict(z)
        low, high = self.classes
        xp = backends.namespace(z)
        second = xp.astype(z > 0.0, z.dtype)
        return low * (1.0 - second) + high * second

    def predict_proba(self, X: Array) -> Array:
        """Return the probabilities of the two classes, shape (..., n, 2).

        Parameters
        ----------
        X : array or sparse matrix, shape (..., n, p)
            Rows, of the columns that were fitted.

        Returns
        -------
        array, shape (..., n, 2)
            The probability of the first and of the second class.

        Raises
        ------
        AttributeError
            If the loss has no classes.
        """
        if self.classes is None:
            raise AttributeError(f"loss {self.loss.name!r} has no classes: use predict")
        z = self.decision_function(X)
        signs = backends.namespace(z).arange(-1, 2, 2, dtype=z.dtype, device=backends.device(z))
        return self.loss.predict(
            z[..., None] * signs
        )  # lazy rows of unknown number cannot be stacked


def fitted(found: Result, sound: Screened, loss: Loss) -> FitResult:
    """Name the parts of the point that a run over sound data found.

    Parameters
    ----------
    found : Result
        What the run returned; its point is a `Params`.
    sound : Screened
        The data, as they were screened.
    loss : Loss
        The loss that was minimised.

    Returns
    -------
    FitResult
        The same result, with the model's names.
    """
    known = {field.name: getattr(found, field.name) for field in fields(Result)}
    known["n_sync"] = found.n_sync + sound.n_sync
    params, blocks = found.x, sound.blocks
    return FitResult(
        **known, coef=params.coef, intercept=params.intercept, loss=loss, classes=sound.classes,
        n_passes=blocks.passes[0] if backends.of(blocks.X).chunked else None,
    )  # fmt: skip
