"""Base classes of losses and penalties, with a default for all that can be derived from a few methods.

`BaseLoss` and `BasePenalty` implement the protocols ``Loss`` and ``Penalty`` that the other rooms are
written against. A loss is complete with `value` and `gradient`, a penalty with `value` and either `prox` or
`gradient`. An object that follows the protocols only in part and has no base class is wrapped once, on its
way in, by `as_loss` and `as_penalty`, so that nothing behind them asks which methods an object has.

>>> import numpy as np
>>> class LogCosh(BaseLoss):
...     curvature_bound = 1.0
...
...     def value(self, z, y):
...         return np.log(np.cosh(z - y))
...
...     def gradient(self, z, y):
...         return np.tanh(z - y)
>>> LogCosh().hessian(np.zeros(2), np.zeros(2)).round(6)
array([1., 1.])
"""

from __future__ import annotations

import abc
import functools
import itertools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Loss, NativeArray, Penalty
from agd._validation import as_real
from agd.loss._stable import soft_threshold

__all__ = [
    "BaseLoss",
    "BasePenalty",
    "JointTermsLoss",
    "MoreauEnvelope",
    "OffsetLoss",
    "PenaltySum",
    "RescaledPenalty",
    "as_entries",
    "as_loss",
    "as_penalty",
    "entries_like",
    "pair_offset",
    "split_offset",
    "take_entries",
]

LOSS_ALIASES = {
    "slope": "gradient",
    "curvature": "curvature_bound",
    "value_and_slope": "value_and_gradient",
    "sum_and_slope": "sum_and_gradient",
    "predict": "inverse_link",
}
"""Earlier names of a loss's members, and the present ones; `predict` stays, where the two differ."""

PENALTY_ALIASES = {"grad": "gradient", "curvature": "curvature_bound"}
"""Earlier names of a penalty's members, and the present ones."""


def _missing_names(members: Mapping[str, Any], aliases: dict[str, str]) -> dict[str, Any]:
    """Return the members that are defined under only one of their two names, keyed by the missing name."""
    pairs = [*aliases.items(), *((new, old) for old, new in aliases.items())]
    return {a: members[b] for a, b in pairs if b in members and a not in members}


def _complete_names(cls: type, aliases: dict[str, str]) -> None:
    """Give each member that a class defines under one of its two names the other name, too.

    It is done class by class, so that an override under the earlier name may call ``super()`` by it.
    """
    for name, member in _missing_names(vars(cls), aliases).items():
        setattr(cls, name, member)


class BaseLoss(abc.ABC):
    """A pointwise loss l(z, y); a subclass defines `value` and `gradient`, and what it knows better.

    The defaults are those of a regression loss: the prediction is z itself, and y is any real number.
    Without `hessian` the second derivative is a difference of gradients.

    Attributes
    ----------
    name : str
        The loss's name as scikit-learn spells it.
    curvature_bound : float or None
        A bound on the second derivative in z; None where there is none, or none is known.
    classes : int, infinity or None
        How many classes y has, which it then numbers from 0; None for a numeric target. Infinity leaves
        the number to the labels: two or more, and `with_classes` returns the loss for their number.
    outputs : int, infinity or None
        How many outputs z has on its last axis: z and the gradient are then (..., n, k) beside values and
        y of shape (..., n). None for a loss of one output, whose z has the shape of y. Infinity, as of
        `classes`, where the labels have yet to tell.
    shift_invariant : bool
        Whether a constant added to all outputs of z leaves the loss as it is, so that of many equal models
        the shortest is reported: intercepts, and without a penalty coefficients, of mean 0 over the outputs.
    has_recession_direction : bool
        Whether, for some y, l decreases for ever as z goes to infinity, as a logarithm of a probability
        does. Rows that a plane separates then leave a fit without a minimum.
    user_defined : bool
        Whether the class was defined outside of agd, so that its gradient may be wrong.
    domain : str
        What y may be, in words.
    quadratic : bool
        Whether l(z, y) = (z - y)² / 2, so that second moments of the data are all that a fit needs. A
        subclass does not inherit it, since it may compute another value.
    smooth : bool
        Whether `gradient` is continuous in z. A loss that is not smooth has a `prox`, by which it is
        smoothed, and its `gradient` returns one of the subgradients.
    piecewise_linear : bool
        Whether l is linear in z between kinks, of which `kinks` has one at z = y by default: its minimum is then
        at a vertex, where as many kinks are met as there are parameters.
    convex : bool
        Whether l is convex in z for every y, so that a fit has one minimum. Of a loss that is not, a result
        says that another minimum may be lower.
    starting_loss : Loss or None
        For a loss that is not convex, a convex one from whose minimum a fit begins.
    has_deviance : bool
        Whether l is a negative log likelihood but for terms of y alone, so that twice its excess over
        `least_value` is the deviance.
    residual : bool
        Whether l is a function of z - y alone, so that an offset of z is subtracted from y. A subclass does
        not inherit it, since it may compute another value.
    log_link : bool
        Whether `link` is the logarithm, so that the mean is proportional to an exposure.
    has_offset : bool
        Whether y is a pair of target and offset: see `OffsetLoss`.
    estimates_scale : bool
        Whether a fit estimates the spread of the residuals, of which `with_scale` makes the loss.
    positive_predictor : bool
        Whether l is infinite where z is not above 0.
    counts : bool
        Whether y is given as pairs of counts, successes and failures, which become shares and weights.
    fixed_dispersion : bool
        Whether the variance of that distribution follows from its mean, as of counts and classes; else its
        dispersion is estimated from the residuals.

    Examples
    --------
    >>> import numpy as np
    >>> class Cubic(BaseLoss):
    ...     def value(self, z, y):
    ...         return abs(z - y) ** 3
    ...
    ...     def gradient(self, z, y):
    ...         return 3.0 * (z - y) * abs(z - y)
    >>> total, gradient = Cubic().sum_and_gradient(np.asarray([1.0, 2.0]), np.zeros(2))
    >>> float(total), gradient
    (9.0, array([ 3., 12.]))
    """

    name: str = "custom"
    curvature_bound: float | None = None
    curvature: float | None = None
    classes: float | None = None
    outputs: float | None = None
    shift_invariant: bool = False
    has_recession_direction: bool = False
    user_defined: bool = True
    domain: str = "any number"
    quadratic: bool = False
    smooth: bool = True
    piecewise_linear: bool = False
    convex: bool = True
    starting_loss: Loss | None = None
    has_deviance: bool = False
    residual: bool = False
    log_link: bool = False
    has_offset: bool = False
    estimates_scale: bool = False
    positive_predictor: bool = False
    counts: bool = False
    fixed_dispersion: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the earlier names of members in step, and let no subclass inherit `quadratic` and `residual`."""
        super().__init_subclass__(**kwargs)
        _complete_names(cls, LOSS_ALIASES)
        cls.quadratic = vars(cls).get("quadratic", False)
        cls.residual = vars(cls).get("residual", False)
        in_agd = cls.__module__.startswith(f"{__package__}.")
        cls.user_defined = vars(cls).get("user_defined", not in_agd)

    @abc.abstractmethod
    def value(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return l(z, y), element by element."""

    @abc.abstractmethod
    def gradient(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return dl/dz, element by element."""

    def hessian(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return d²l/dz², element by element; by default a central difference of gradients."""
        xp = backends.namespace(z)
        # A step of eps^(1/3) balances the rounding error of the difference with its truncation error.
        h = math.cbrt(float(xp.finfo(z.dtype).eps)) * backends.clip(xp.abs(z), low=1.0)
        return (self.gradient(z + h, y) - self.gradient(z - h, y)) / (2.0 * h)

    def prox(self, z: NativeArray, y: NativeArray, step: float) -> NativeArray:
        """Return argmin_u l(u, y) + (u - z)² / (2 step), element by element.

        Raises
        ------
        NotImplementedError
            If the loss does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no prox for z of shape {tuple(z.shape)} beside y of shape "
            f"{tuple(y.shape)}, step {step!r}"
        )

    def kinks(self, y: NativeArray) -> list[tuple[NativeArray, Any, Any]]:
        """Return a loss that is piecewise linear as a sum of max(low (z - kink), high (z - kink)) over kinks.

        Returns
        -------
        list of tuple
            Kink, low and high of each term, numbers or arrays of the shape of y; by default of one kink at z = y.
        """
        return [(y, self.gradient(y - 1.0, y), self.gradient(y + 1.0, y))]

    def value_and_gradient(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return l(z, y) and dl/dz; a loss whose two have a term in common computes it once."""
        return self.value(z, y), self.gradient(z, y)

    def value_gradient_and_hessian(
        self, z: NativeArray, y: NativeArray
    ) -> tuple[NativeArray, NativeArray, NativeArray]:
        """Return l(z, y), dl/dz and d²l/dz²; a loss whose three have a term in common computes it once."""
        return *self.value_and_gradient(z, y), self.hessian(z, y)

    def sum_and_gradient(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return the sum of l(z, y) over the last axis, the rows, and dl/dz of each row."""
        value, gradient = self.value_and_gradient(z, y)
        return backends.namespace(value).sum(value, axis=-1), gradient

    def link(self, mean: NativeArray) -> NativeArray:
        """Return the constant z whose prediction is `mean`."""
        return mean

    def inverse_link(self, z: NativeArray) -> NativeArray:
        """Return the mean of y that z stands for."""
        return z

    def predict(self, z: NativeArray) -> NativeArray:
        """Return the prediction that z stands for: the mean of y."""
        return self.inverse_link(z)

    def least_value(self, y: NativeArray) -> NativeArray:
        """Return the minimum of l(z, y) over z, element by element: by default 0."""
        return backends.namespace(y).zeros_like(y)

    def saturated_log_likelihood(self, y: NativeArray, precision: NativeArray) -> NativeArray:  # noqa: ARG002
        """Return the log density of y where z fits it exactly, with a weight over the dispersion for each row.

        What a model lacks of it is precision (l(z, y) - least_value(y)). NaN where it is not known.
        """
        return backends.namespace(y).full_like(y, math.nan)

    def null_model(self, mean: NativeArray) -> NativeArray:
        """Return the constant z that fits targets of this mean best; 0 where no finite one does."""
        xp, z = backends.namespace(mean), self.link(mean)
        return xp.where(xp.isfinite(z), z, xp.zeros_like(z))

    def statistic(self, y: NativeArray) -> NativeArray:
        """Return T(y), shaped like z: the best constant model depends on y through the mean of T(y); here y."""
        return y

    def with_classes(self, count: int) -> Loss:  # noqa: ARG002 - for losses of any number of classes
        """Return the loss for y of this many classes: itself, of a loss that declares their number."""
        return self

    def with_scale(self, scale: float) -> Loss:  # noqa: ARG002 - for losses that estimate it
        """Return the loss for residuals of this spread: itself, of a loss that does not estimate it."""
        return self

    def class_shares(self, mean: NativeArray) -> NativeArray:
        """Return the share of the rows in each class, shape (..., classes), for a mean of `statistic`.

        By default that is the share of the second of two classes.
        """
        return backends.namespace(mean).stack([1.0 - mean, mean], axis=-1)

    def likeliest_class(self, z: NativeArray) -> NativeArray:
        """Return the number of the likeliest class, in the dtype of z: by default 1 where z is above 0."""
        return backends.namespace(z).astype(z > 0.0, z.dtype)

    def class_probabilities(self, z: NativeArray) -> NativeArray:
        """Return the probability of each class, shape (..., n, classes).

        By default there are two, with `predict` the probability of the second, and of the first for -z.
        """
        signs = backends.namespace(z).arange(-1, 2, 2, dtype=z.dtype, device=backends.device(z))
        return self.predict(z[..., None] * signs)  # lazy rows of unknown number cannot be stacked

    def outside(self, y: NativeArray) -> NativeArray:
        """Return where y is no target that this loss can have."""
        xp = backends.namespace(y)
        return xp.zeros_like(y, dtype=xp.bool)

    def slope(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return dl/dz: the earlier name of `gradient`."""
        return self.gradient(z, y)

    def value_and_slope(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return l(z, y) and dl/dz: the earlier name of `value_and_gradient`."""
        return self.value_and_gradient(z, y)

    def sum_and_slope(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return the sum and dl/dz: the earlier name of `sum_and_gradient`."""
        return self.sum_and_gradient(z, y)


class JointTermsLoss(BaseLoss):
    """A loss whose value and derivatives come from the same terms: a subclass has `value_gradient_and_hessian`."""

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        value: Array = self.value_gradient_and_hessian(z, y)[0]
        return value

    def gradient(self, z: Array, y: Array) -> Array:
        """Return dl/dz, element by element."""
        gradient: Array = self.value_gradient_and_hessian(z, y)[1]
        return gradient

    def hessian(self, z: Array, y: Array) -> Array:
        """Return d²l/dz², element by element."""
        hessian: Array = self.value_gradient_and_hessian(z, y)[2]
        return hessian

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from the same terms."""
        return self.value_gradient_and_hessian(z, y)[:2]


@dataclass(frozen=True)
class MoreauEnvelope(BaseLoss):
    r"""A loss that is not smooth, smoothed over a width: min_u l(u, y) + (u - z)² / (2 width).

    It is nowhere above the loss, and below it by at most width / 2 times the largest squared slope. Its
    gradient (z - prox(z)) / width is continuous.

    Parameters
    ----------
    loss : Loss
        The loss, which has a `prox`.
    width : float
        The width, in the units of z per unit of slope; above 0.

    Notes
    -----
    Moreau (1965), "Proximité et dualité dans un espace hilbertien", Bulletin de la SMF 93.
    """

    loss: Loss
    width: float

    def __post_init__(self) -> None:
        """Take over what the loss says of itself; the second derivative is at most one over the width."""
        bound = 1.0 / self.width
        vars(self).update(name=self.loss.name, domain=self.loss.domain, convex=self.loss.convex)
        vars(self).update(curvature_bound=bound, curvature=bound, has_offset=self.loss.has_offset)

    def value(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return the smoothed loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return (z - prox(z)) / width, element by element."""
        return (z - self.loss.prox(z, y, self.width)) / self.width

    def hessian(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return d²l/dz², by a difference over a small share of the width."""
        h = 1e-3 * self.width
        return (self.gradient(z + h, y) - self.gradient(z - h, y)) / (2.0 * h)

    def value_and_gradient(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return both, from one prox."""
        nearest = self.loss.prox(z, y, self.width)
        gradient = (z - nearest) / self.width
        return self.loss.value(nearest, y) + 0.5 * self.width * gradient**2, gradient

    def link(self, mean: NativeArray) -> NativeArray:
        """Return the constant z whose prediction is `mean`, as the loss has it."""
        return self.loss.link(mean)

    def inverse_link(self, z: NativeArray) -> NativeArray:
        """Return the prediction that z stands for, as the loss has it."""
        return self.loss.inverse_link(z)

    def statistic(self, y: NativeArray) -> NativeArray:
        """Return the T(y) of the loss."""
        return self.loss.statistic(y)

    def null_model(self, mean: NativeArray) -> NativeArray:
        """Return the null model of the loss."""
        return self.loss.null_model(mean)

    def outside(self, y: NativeArray) -> NativeArray:
        """Return where y is no target that the loss can have."""
        return self.loss.outside(y)


def pair_offset(y: NativeArray, offset: NativeArray) -> NativeArray:
    """Return targets and the offsets of their rows as one array, y + i offset.

    As one complex number to a row the pair is sliced, cut into chunks, read in batches and compiled as targets
    alone are, by every library. `split_offset` takes it apart.

    Examples
    --------
    >>> import numpy as np
    >>> pair_offset(np.asarray([2.0, 3.0]), np.asarray([0.5, -1.0]))
    array([2.+0.5j, 3.-1.j ])
    """
    xp = backends.namespace(y)
    kind = xp.result_type(y.dtype, xp.complex64)
    return xp.astype(y, kind) + 1j * xp.astype(offset, kind)


def split_offset(y: NativeArray) -> tuple[NativeArray, NativeArray | None]:
    """Return the targets, and the offsets of a y of pairs; None for a y without.

    Examples
    --------
    >>> import numpy as np
    >>> split_offset(np.asarray([2.0 + 0.5j]))
    (array([2.]), array([0.5]))
    """
    if "complex" not in str(y.dtype):
        return y, None
    xp = backends.namespace(y)
    return xp.real(y), xp.imag(y)


@dataclass(frozen=True, repr=False)
class OffsetLoss(BaseLoss):
    r"""A loss of rows with offsets, l(z + offset, y), whose targets are pairs of y and offset.

    ``agd.fit`` wraps the loss where it is given an offset. All else that a loss says of itself is the wrapped one's.
    The pairs are those of `pair_offset`.

    Parameters
    ----------
    wrapped : Loss
        The loss l(z, y).

    Examples
    --------
    >>> import numpy as np
    >>> from agd.loss import Poisson
    >>> OffsetLoss(Poisson()).gradient(np.asarray([0.0]), np.asarray([3.0 + 1j * np.log(2.0)])).round(6)
    array([-1.])
    """

    wrapped: Loss
    has_offset = True

    def __post_init__(self) -> None:
        """Take over the members of the loss that no offset changes."""
        members = _members_of(self.wrapped, BaseLoss, LOSS_ALIASES)
        own = vars(OffsetLoss)
        vars(self).update({name: member for name, member in members.items() if name not in own})

    def __repr__(self) -> str:
        """Return how the wrapped loss writes itself."""
        return repr(self.wrapped)

    def with_classes(self, count: int) -> OffsetLoss:
        """Return the same of the loss of this many classes."""
        return OffsetLoss(self.wrapped.with_classes(count))

    @staticmethod
    def _add_offset(z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return the predictor and the targets of the wrapped loss."""
        target, offset = split_offset(y)
        return (z if offset is None else z + offset), target

    def value(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return l(z + offset, y), element by element."""
        return self.wrapped.value(*self._add_offset(z, y))

    def gradient(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return dl/dz at z + offset, element by element."""
        return self.wrapped.gradient(*self._add_offset(z, y))

    def hessian(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return d²l/dz² at z + offset, element by element."""
        return self.wrapped.hessian(*self._add_offset(z, y))

    def value_and_gradient(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return both."""
        return self.wrapped.value_and_gradient(*self._add_offset(z, y))

    def value_gradient_and_hessian(
        self, z: NativeArray, y: NativeArray
    ) -> tuple[NativeArray, NativeArray, NativeArray]:
        """Return all three."""
        return self.wrapped.value_gradient_and_hessian(*self._add_offset(z, y))

    def sum_and_gradient(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return the sum over the rows, and dl/dz of each row."""
        return self.wrapped.sum_and_gradient(*self._add_offset(z, y))

    def prox(self, z: NativeArray, y: NativeArray, step: float) -> NativeArray:
        """Return the prox of l, of the predictor with its offset, less the offset."""
        moved, target = self._add_offset(z, y)
        return self.wrapped.prox(moved, target, step) - (moved - z)

    def kinks(self, y: NativeArray) -> list[tuple[NativeArray, Any, Any]]:
        """Return the kinks of l, less the offset."""
        target, offset = split_offset(y)
        shift = 0.0 * target if offset is None else offset
        return [(kink - shift, low, high) for kink, low, high in self.wrapped.kinks(target)]

    def least_value(self, y: NativeArray) -> NativeArray:
        """Return the minimum of l over z, which no offset changes."""
        return self.wrapped.least_value(split_offset(y)[0])

    def outside(self, y: NativeArray) -> NativeArray:
        """Return where the target is none that the loss can have."""
        return self.wrapped.outside(split_offset(y)[0])

    def statistic(self, y: NativeArray) -> NativeArray:
        """Return the pair of the target and the mean of y that the offset alone predicts."""
        target, offset = split_offset(y)
        alone = 0.0 * target if offset is None else offset
        return pair_offset(self.wrapped.statistic(target), self.wrapped.inverse_link(alone))

    def null_model(self, mean: NativeArray) -> NativeArray:
        """Return the constant that brings the mean that the offsets predict to that of the targets.

        It is the best constant model for the identity and the log link, and near it for others.
        """
        xp = backends.namespace(mean)
        z = self.wrapped.link(xp.real(mean)) - self.wrapped.link(xp.imag(mean))
        return xp.where(xp.isfinite(z), z, xp.zeros_like(z))


class BasePenalty(abc.ABC):
    """A function of the coefficients; a subclass defines `value`, and `prox` or, if smooth, `gradient`.

    Attributes
    ----------
    smooth : bool
        Whether `gradient` exists everywhere; else the penalty is left to its `prox`.
    separable : bool
        Whether it is a sum over the coefficients, so that `prox` acts entry by entry.
    quadratic : bool
        Whether value(w) = curvature_bound / 2 Σ w², so that the squared loss with it is still a quadratic.
        A subclass does not inherit it, since it may compute another value.
    couples_targets : bool
        Whether it couples the coefficients of several targets, and so needs the matrix of all of them.
    interval : bool
        Whether it is a set that each entry by itself must lie in: an interval.
    prox_follows_l1 : bool
        Whether the prox of its sum with `L1` is that of `L1`, followed by its own.
    l1_follows_prox : bool
        Whether the prox of its sum with `L1` is its own, followed by that of `L1`.
    convex : bool
        Whether it is a convex function, so that a fit with a convex loss has one minimum.
    prox_on_host : bool
        Whether the prox is computed on the host from values that it reads, so that no compiler can follow it.
    """

    smooth: bool = False
    separable: bool = False
    quadratic: bool = False
    couples_targets: bool = False
    interval: bool = False
    prox_follows_l1: bool = False
    l1_follows_prox: bool = False
    convex: bool = True
    prox_on_host: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the earlier names of members in step, and let no subclass inherit `quadratic`."""
        super().__init_subclass__(**kwargs)
        _complete_names(cls, PENALTY_ALIASES)
        cls.quadratic = vars(cls).get("quadratic", False)

    def __add__(self, other: Any) -> BasePenalty:
        """Return the sum of two penalties, such as ``L1(0.1) + NonNegative()``."""
        added = as_penalty(other)
        if not isinstance(added, BasePenalty):
            return NotImplemented
        parts = (part.terms if isinstance(part, PenaltySum) else (part,) for part in (self, added))
        return PenaltySum(tuple(itertools.chain(*parts)))

    @property
    def elastic_parts(self) -> tuple[Any, Any] | None:
        """The strengths a and r of a penalty that is Σ a |w| + Σ r w² / 2; None for any other.

        They are numbers, or NumPy arrays of one for each coefficient.
        """
        return None

    def strengthened(self, factor: float) -> BasePenalty:
        """Return the penalty with its strength, alpha, multiplied by a factor; a set stays as it is."""
        return RescaledPenalty(self, factor)

    def of_scaled(self, scale: Any) -> BasePenalty:
        """Return the penalty of scale * w as one of w; a set stays in the units of w.

        Parameters
        ----------
        scale : float or array of NumPy's, shape (p,) or (..., p)
            Above 0.

        Raises
        ------
        TypeError
            If the penalty couples coefficients of different scales, so that its prox does not follow.
        """
        if not self.separable:
            raise TypeError(
                f"{self!r} couples coefficients, and its prox in standard units is not known: divide the "
                f"columns of X by their spreads before the fit"
            )
        return RescaledPenalty(self, 1.0, as_entries("scale", scale))

    def starting_penalty(self) -> BasePenalty:
        """Return a convex penalty from whose minimum a fit begins; itself, of one that is convex."""
        return self

    def linearised(self, w: Any) -> BasePenalty:  # noqa: ARG002 - for penalties that are not convex
        """Return a convex penalty that touches this one at w, a host array, and is nowhere lower but for a constant."""
        return self

    def of_columns(self, columns: Any) -> BasePenalty:  # noqa: ARG002 - for numbers of one coefficient each
        """Return the penalty of some of the coefficients alone, of one that is separable; `columns` are indices."""
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """What the penalty holds, by name: its strength, its bounds."""
        return dict(vars(self))

    @property
    def curvature_bound(self) -> float | None:
        """The largest second derivative; None where there is none."""
        return None

    @property
    def curvature(self) -> float | None:
        """The earlier name of `curvature_bound`."""
        return self.curvature_bound

    @abc.abstractmethod
    def value(self, w: NativeArray) -> NativeArray:
        """Return the penalty of w (..., p), shape (...)."""

    def gradient(self, w: NativeArray) -> NativeArray:
        """Return the gradient, shape (..., p), of a smooth penalty.

        Raises
        ------
        NotImplementedError
            If the penalty is not smooth.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no gradient at some w of shape {tuple(w.shape)}: use its prox"
        )

    def prox(self, w: NativeArray, step: float | NativeArray) -> NativeArray:
        """Return argmin_u value(u) + |u - w|² / (2 step), shape (..., p).

        Raises
        ------
        NotImplementedError
            If the penalty does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no prox for w of shape {tuple(w.shape)}, step {step!r}"
        )

    def grad(self, w: NativeArray) -> NativeArray:
        """Return the gradient: the earlier name of `gradient`."""
        return self.gradient(w)


@dataclass(frozen=True)
class RescaledPenalty(BasePenalty):
    r"""A multiple of a penalty, of coefficients in other units: factor * penalty(scale * w).

    ::

        prox(w, step) = prox of the penalty(scale w, factor scale² step) / scale

    Parameters
    ----------
    penalty : Penalty
        The penalty; one that acts coefficient by coefficient where there are several scales.
    factor : float
        0 or more.
    scale : float, sequence or array, shape (p,)
        Above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.loss import L1
    >>> RescaledPenalty(L1(1.0), 0.5, (2.0, 1.0)).prox(np.asarray([3.0, 3.0]), 1.0)
    array([2. , 2.5])
    """

    penalty: Any
    factor: float = 1.0
    scale: Any = 1.0

    def __post_init__(self) -> None:
        """Take over what the penalty says of itself."""
        p = self.penalty
        vars(self).update(smooth=p.smooth, separable=p.separable, couples_targets=p.couples_targets)
        vars(self).update(convex=p.convex, prox_on_host=p.prox_on_host)

    def starting_penalty(self) -> BasePenalty:
        """Return the multiple of the penalty from whose minimum a fit begins."""
        return RescaledPenalty(self.penalty.starting_penalty(), self.factor, self.scale)

    def linearised(self, w: Any) -> BasePenalty:
        """Return the multiple of a convex penalty that touches the penalty."""
        inner = self.penalty.linearised(np.asarray(self.scale) * w)
        return RescaledPenalty(inner, self.factor, self.scale)

    @property
    def parameters(self) -> dict[str, Any]:
        """What the penalty holds, the factor and the scale, by name."""
        return {**self.penalty.parameters, "factor": self.factor, "scale": self.scale}

    @property
    def curvature_bound(self) -> float | None:
        """The penalty's, times the largest square of a scale."""
        bound = self.penalty.curvature_bound
        return None if bound is None else self.factor * float(np.max(self.scale)) ** 2 * bound

    @property
    def elastic_parts(self) -> tuple[Any, Any] | None:
        """The strengths of absolute values and of squares, where the penalty has no other terms."""
        parts = self.penalty.elastic_parts
        if parts is None:
            return None
        scale = np.asarray(self.scale)
        return self.factor * scale * parts[0], self.factor * scale**2 * parts[1]

    def value(self, w: Array) -> Array:
        """Return factor * penalty(scale * w)."""
        value: Array = self.factor * self.penalty.value(entries_like("scale", self.scale, w) * w)
        return value

    def gradient(self, w: Array) -> Array:
        """Return its gradient, of a smooth penalty."""
        scale = entries_like("scale", self.scale, w)
        slope: Array = self.factor * scale * self.penalty.gradient(scale * w)
        return slope

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step)."""
        scale = entries_like("scale", self.scale, w)
        near: Array = self.penalty.prox(scale * w, step * self.factor * scale * scale)
        return near / scale

    def strengthened(self, factor: float) -> BasePenalty:
        """Return the penalty with its strength multiplied by a factor."""
        return RescaledPenalty(self.penalty.strengthened(factor), self.factor, self.scale)

    def of_columns(self, columns: Any) -> BasePenalty:
        """Return the penalty of some of the coefficients alone."""
        inner = self.penalty.of_columns(columns)
        return RescaledPenalty(inner, self.factor, take_entries(self.scale, columns))


def as_entries(name: str, value: Any) -> Any:
    """Check a number, or one for each coefficient, and return it as a float or a tuple of floats.

    Tuples can be hashed; arrays of any library are read by the host.

    Raises
    ------
    TypeError
        For what is no number.
    ValueError
        For NaN.
    """
    if backends.is_array(value) and not isinstance(value, np.generic):
        value = backends.to_numpy(value)
    if not isinstance(value, list | tuple | np.ndarray):
        number = as_real(name, value, "a number, or one for each coefficient")
        if math.isnan(number):
            raise ValueError(f"{name} must not be NaN")
        return number
    try:
        host = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number, or one for each coefficient, got {value!r}"
        ) from None
    if np.isnan(host).any():
        raise ValueError(f"{name} must not be NaN, got {value!r}")
    return _to_tuple(host.tolist())


def _to_tuple(data: Any) -> Any:
    return tuple(_to_tuple(part) for part in data) if isinstance(data, list) else data


def take_entries(value: Any, columns: Any) -> Any:
    """Return a number as it is, and of one for each coefficient those of some columns, as a tuple."""
    host = np.asarray(value)
    return value if host.ndim == 0 else _to_tuple(host[..., columns].tolist())


def entries_like(name: str, value: Any, w: Array) -> float | Array:
    """Return a number as it is, and one for each coefficient as an array where w is.

    Raises
    ------
    ValueError
        If its shape does not broadcast to that of w.
    """
    if isinstance(value, int | float):
        return value
    foreign = backends.is_array(value) and not isinstance(value, np.ndarray)
    array = value if foreign else backends.to_device_of(value, w)
    shape, target = tuple(array.shape), tuple(w.shape)
    fits = len(shape) <= len(target) and all(
        a in (1, b) for a, b in zip(shape[::-1], target[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} must be a number or broadcast to the coefficients of shape {target}, got "
            f"shape {shape}"
        )
    return array


@dataclass(frozen=True)
class PenaltySum(BasePenalty):
    r"""A sum of penalties and sets, which ``+`` makes of them: ``L1(0.1) + NonNegative() + L2(0.01)``.

    Smooth terms add their gradients. Otherwise the prox of the sum must follow from those of its terms. With
    the strength r of all ridges (`L2`, and the share of `ElasticNet`), which a change of scale takes away::

        prox(w, step) = prox of the rest(w / (1 + r step), step / (1 + r step))

    The rest may be any one penalty; or `L1`, followed by `GroupL1` (the sparse group lasso), or after `FusedL1` (the
    fused lasso); or `L1` with the sets `NonNegative` and `Box`, onto whose intervals each entry is projected after it.

    Parameters
    ----------
    terms : tuple of Penalty
        The terms, of two or more.

    Raises
    ------
    TypeError
        If the prox of the sum does not follow from those of its terms.

    Notes
    -----
    Parikh and Boyd (2014), "Proximal algorithms", section 2.2, for the ridge; Simon, Friedman, Hastie and
    Tibshirani (2013), "A sparse-group lasso", Journal of Computational and Graphical Statistics 22.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.loss import L1, L2, NonNegative
    >>> (L1(0.5) + NonNegative() + L2(1.0)).prox(np.asarray([2.5, -3.0]), 1.0)
    array([1., 0.])
    """

    terms: tuple[BasePenalty, ...]

    def __post_init__(self) -> None:
        """Take over what the terms are together, and refuse terms whose prox is not known."""
        terms = self.terms
        smooth = all(term.smooth for term in terms)
        vars(self).update(
            smooth=smooth,
            separable=all(term.separable for term in terms),
            quadratic=all(term.quadratic for term in terms),
            couples_targets=any(term.couples_targets for term in terms),
            convex=all(term.convex for term in terms),
            prox_on_host=any(term.prox_on_host for term in terms),
        )
        rest = self._rest
        one = len(rest) <= 1 or all(term.interval for term in rest)
        after_l1 = not np.any(self._strengths[0]) or all(
            term.prox_follows_l1 or term.l1_follows_prox for term in rest
        )
        # A ridge for each coefficient leaves a step for each, which only a prox entry by entry takes.
        alike = np.ndim(self._strengths[1]) == 0 or all(term.separable for term in rest)
        if not smooth and (any(term.smooth for term in rest) or not (one and after_l1 and alike)):
            raise TypeError(
                f"the prox of {self!r} does not follow from those of its terms: to a penalty with a prox add "
                f"L2; to L1 also GroupL1, FusedL1, NonNegative and Box"
            )

    @functools.cached_property
    def _rest(self) -> list[BasePenalty]:
        """The terms that are neither absolute values nor squares."""
        return [term for term in self.terms if term.elastic_parts is None]

    @functools.cached_property
    def _strengths(self) -> tuple[Any, Any]:
        """The strengths of all absolute values and of all squares: numbers, or one for each coefficient."""
        parts = [part for term in self.terms if (part := term.elastic_parts) is not None]
        return sum(a for a, _ in parts), sum(r for _, r in parts)

    @property
    def elastic_parts(self) -> tuple[Any, Any] | None:
        """The strengths of all absolute values and of all squares, where there is nothing else."""
        return None if self._rest else self._strengths

    def starting_penalty(self) -> BasePenalty:
        """Return the sum of what fits with the terms begin from."""
        return self._sum_of([term.starting_penalty() for term in self.terms])

    def linearised(self, w: Any) -> BasePenalty:
        """Return the sum of convex penalties that touch the terms."""
        return self._sum_of([term.linearised(w) for term in self.terms])

    def _sum_of(self, terms: list[BasePenalty]) -> BasePenalty:
        total: BasePenalty = functools.reduce(operator.add, terms)
        return total

    def strengthened(self, factor: float) -> BasePenalty:
        """Return the sum of the terms, each with its strength multiplied by a factor."""
        return PenaltySum(tuple(term.strengthened(factor) for term in self.terms))

    def of_columns(self, columns: Any) -> BasePenalty:
        """Return the sum for some of the coefficients alone."""
        return PenaltySum(tuple(term.of_columns(columns) for term in self.terms))

    def of_scaled(self, scale: Any) -> BasePenalty:
        """Return the sum of the terms of scale * w."""
        return self._sum_of([term.of_scaled(scale) for term in self.terms])

    def __repr__(self) -> str:
        """Return the terms with plus signs between them."""
        return " + ".join(map(repr, self.terms))

    @property
    def parameters(self) -> dict[str, Any]:
        """What the terms hold, by their positions and names."""
        return {
            f"{i}.{name}": value
            for i, term in enumerate(self.terms)
            for name, value in term.parameters.items()
        }

    @property
    def curvature_bound(self) -> float | None:
        """The sum of those of the terms; None where one has none."""
        bounds = [term.curvature_bound for term in self.terms]
        return None if None in bounds else sum(bound for bound in bounds if bound is not None)

    def value(self, w: Array) -> Array:
        """Return the sum of the terms' values."""
        total: Array = functools.reduce(operator.add, [term.value(w) for term in self.terms])
        return total

    def gradient(self, w: Array) -> Array:
        """Return the sum of the terms' gradients."""
        total: Array = functools.reduce(operator.add, [term.gradient(w) for term in self.terms])
        return total

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step): the ridge's scale, and then the rest."""
        l1, ridge = (entries_like("weights", part, w) for part in self._strengths)
        scale = 1.0 / (1.0 + ridge * step)
        w, step = scale * w, scale * step
        first = [term for term in self._rest if term.l1_follows_prox]
        for term in first:
            w = term.prox(w, step)
        if np.any(self._strengths[0]):
            w = soft_threshold(w, step * l1)
        for term in self._rest:
            w = w if term in first else term.prox(w, step)
        return w


def _members_of(wrapped: Any, base: type, aliases: dict[str, str]) -> dict[str, Any]:
    """Return the members of a base class that an object has, under their present and earlier names."""
    names = [name for name in dir(base) if not name.startswith("_")]
    members = {name: getattr(wrapped, name) for name in names if hasattr(wrapped, name)}
    return members | _missing_names(members, aliases)


@dataclass(frozen=True, repr=False)
class AdaptedLoss(BaseLoss):
    """A loss without the base class: its own members, and the defaults of `BaseLoss` for all others."""

    user_defined = True
    wrapped: Any

    def __post_init__(self) -> None:
        """Take over the members that the loss has."""
        vars(self).update(_members_of(self.wrapped, BaseLoss, LOSS_ALIASES))

    def __repr__(self) -> str:
        """Return how the loss writes itself."""
        return repr(self.wrapped)

    def value(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return l(z, y), element by element."""
        losses: NativeArray = self.wrapped.value(z, y)
        return losses

    def gradient(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return dl/dz, element by element."""
        slopes: NativeArray = vars(self)["gradient"](z, y)
        return slopes


@dataclass(frozen=True, repr=False)
class AdaptedPenalty(BasePenalty):
    """A penalty without the base class: its own members, and the defaults of `BasePenalty` for all others."""

    wrapped: Any

    def __post_init__(self) -> None:
        """Take over the members that the penalty has."""
        vars(self).update(_members_of(self.wrapped, BasePenalty, PENALTY_ALIASES))

    def __repr__(self) -> str:
        """Return how the penalty writes itself."""
        return repr(self.wrapped)

    @property
    def parameters(self) -> dict[str, Any]:
        """What the penalty holds, by name."""
        return dict(getattr(self.wrapped, "__dict__", {}))

    @property
    def curvature_bound(self) -> float | None:
        """The largest second derivative, as the penalty has it."""
        bound: float | None = vars(self).get("curvature_bound")
        return bound

    def value(self, w: NativeArray) -> NativeArray:
        """Return the penalty of w (..., p), shape (...)."""
        penalty: NativeArray = self.wrapped.value(w)
        return penalty


def as_loss(loss: Any) -> Loss:
    """Return an object as a complete loss; one without the base class is wrapped.

    Raises
    ------
    TypeError
        If it has no `value`, or neither `gradient` nor `slope`.
    """
    if isinstance(loss, BaseLoss):
        return loss
    methods = (getattr(loss, name, None) for name in ("value", "gradient", "slope"))
    value, *gradients = map(callable, methods)
    if isinstance(loss, type) or not (value and any(gradients)):
        raise TypeError(
            f"loss must be a name or an object such as agd.loss.Huber(delta=1.35), got {loss!r}"
        )
    return AdaptedLoss(loss)


def as_penalty(penalty: Any, example: str = "L2(0.1)") -> Penalty | None:
    """Return an object as a complete penalty, and None as it is; one without the base class is wrapped.

    Raises
    ------
    TypeError
        If it has neither `prox` nor `smooth`, as every penalty has one of them.
    """
    if penalty is None or isinstance(penalty, BasePenalty):
        return penalty
    if isinstance(penalty, type) or not (hasattr(penalty, "prox") or hasattr(penalty, "smooth")):
        raise TypeError(f"penalty must be an object such as agd.loss.{example}, got {penalty!r}")
    return AdaptedPenalty(penalty)
