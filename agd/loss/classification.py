"""Losses for classes, which y numbers from 0, and for shares."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from agd._typing import Array
from agd._validation import as_count, as_flag
from agd.backends import device, namespace
from agd.loss._stable import (
    PROBABILITY_LINKS,
    as_link,
    clip_between,
    log1p,
    log_gamma,
    negative_log_probabilities,
    one_if_positive,
    positive_and_negative_part,
    sum_of_log1p,
    times_log,
)
from agd.loss.base import BaseLoss, JointTermsLoss

__all__ = ["Binomial", "Hinge", "Logistic", "ModifiedHuber", "Softmax", "SquaredHinge"]


class BernoulliFamily(JointTermsLoss):
    """The negative log likelihood of a share y in [0, 1], -y log p - (1 - y) log(1 - p), whose p a link makes of z.

    It is convex in z with each of the links.
    """

    has_recession_direction = True
    has_deviance = True
    fixed_dispersion = True
    link: Any

    def __post_init__(self) -> None:
        """Refuse a link of another name, and bound the second derivative as the link has it."""
        link = as_link(self.link, PROBABILITY_LINKS)
        bound = {"logit": 0.25, "probit": 1.0}.get(link)
        vars(self).update(link=link, curvature_bound=bound, curvature=bound)

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from terms that neither overflow nor cancel."""
        success, failure = negative_log_probabilities(self.link, z)
        value, gradient, hessian = (
            y * a + (1.0 - y) * b for a, b in zip(success, failure, strict=True)
        )
        return value, gradient, hessian

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:  # noqa: ARG002
        """Return 0: the probability of the class that was seen is 1."""
        return namespace(y).zeros_like(y)

    def inverse_link(self, z: Array) -> Array:
        """Return the probability p."""
        p: Array = self.link.inverse(z)
        return p

    def likeliest_class(self, z: Array) -> Array:
        """Return 1 where p is above 1/2, and 0 elsewhere."""
        z = z if self.link != "cloglog" else z - math.log(math.log(2.0))
        number: Array = BaseLoss.likeliest_class(self, z)
        return number

    def class_probabilities(self, z: Array) -> Array:
        """Return 1 - p and p, shape (..., n, 2), neither from a difference with 1."""
        if self.link != "cloglog":  # p(-z) is 1 - p(z)
            probabilities: Array = BaseLoss.class_probabilities(self, z)
            return probabilities
        xp = namespace(z)
        second = xp.arange(0, 2, dtype=z.dtype, device=device(z)) > 0.0
        z = z[..., None] + 0.0 * xp.astype(second, z.dtype)
        return xp.where(second, self.inverse_link(z), xp.exp(-xp.exp(z)))


@dataclass(frozen=True)
class Logistic(BernoulliFamily):
    r"""Logistic loss, the negative log likelihood of a class whose log odds are z.

    For y in {0, 1}: l(z, y) = log(1 + exp(z)) - y z. With s = z for the first class and -z for the
    second this is log(1 + exp(s)) = max(s, 0) + log1p(exp(-|s|)), which neither overflows nor cancels.

    Gradient 1 / (1 + exp(-z)) - y; second derivative at most 1/4. `Binomial` is the same for shares and counts.

    Parameters
    ----------
    link : str
        ``"logit"``, ``"probit"`` or ``"cloglog"``: what z is of the probability of the second class.

    Notes
    -----
    Cox (1958), "The regression analysis of binary sequences", JRSS B 20.

    Examples
    --------
    >>> import numpy as np
    >>> Logistic().value(np.asarray([-1000.0, 0.0]), np.asarray([0.0, 1.0]))
    array([0.        , 0.69314718])
    >>> Logistic(link="probit").inverse_link(np.asarray([1.96])).round(3)
    array([0.975])
    """

    name = "log_loss"
    classes = 2
    domain = "0 or 1"

    link: Any = "logit"

    def gradient(self, z: Array, y: Array) -> Array:
        """Return sigmoid(z) - y, element by element, without cancellation."""
        if self.link != "logit":
            return super().gradient(z, y)
        side = 1.0 - 2.0 * y
        return side * _stable_terms(side * z)[2]

    def hessian(self, z: Array, y: Array) -> Array:
        """Return p (1 - p) with p = sigmoid(z), as e / (1 + e)² with e = exp(-|z|): no digit cancels."""
        if self.link != "logit":
            return super().hessian(z, y)
        xp = namespace(z)
        e = xp.exp(-xp.abs(z))
        return e / (1.0 + e) ** 2

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one exponential that does not overflow."""
        if self.link != "logit":
            return super().value_and_gradient(z, y)
        side = 1.0 - 2.0 * y
        above, e, share = _stable_terms(side * z)
        return above + log1p(e), side * share

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from one exponential that does not overflow."""
        if self.link != "logit":
            return super().value_gradient_and_hessian(z, y)
        xp, side = namespace(z), 1.0 - 2.0 * y
        s = side * z
        size = xp.abs(s)
        e = xp.exp(-size)
        near = 1.0 / (1.0 + e)  # the probability of the likelier class, and that of the other
        far = e * near
        share = xp.where(s > 0.0, near, far)
        # In place of what is new here: memory for as many rows costs as much as the arithmetic.
        size += s
        size *= 0.5
        size += log1p(e)
        share *= side
        return size, share, far * near

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def sum_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return the sum of the losses over the last axis, and the gradients."""
        if self.link != "logit":
            return super().sum_and_gradient(z, y)
        side = 1.0 - 2.0 * y
        above, e, share = _stable_terms(side * z)
        return namespace(z).sum(above, axis=-1) + sum_of_log1p(e), side * share

    def inverse_link(self, z: Array) -> Array:
        """Return the probability of the second class, with the link logit 1 / (1 + exp(-z))."""
        return _stable_terms(z)[2] if self.link == "logit" else super().inverse_link(z)

    def outside(self, y: Array) -> Array:
        """Return where y is neither 0 nor 1."""
        return (y != 0.0) & (y != 1.0)


@dataclass(frozen=True)
class Binomial(BernoulliFamily):
    r"""The logistic loss of a share of successes y in [0, 1]: l(z, y) = log(1 + exp(z)) - y z.

    It is the negative log likelihood of a binomial distribution, per trial and without the terms that depend on y
    alone, where the rows' numbers of trials are their weights.

    Parameters
    ----------
    link : str
        ``"logit"``, ``"probit"`` or ``"cloglog"``: what z is of the probability of a success.
    counts : bool
        Whether ``agd.fit`` gets counts instead of shares: y of shape (..., n, 2), successes and failures. They become
        shares, and the trials weights.

    Raises
    ------
    TypeError
        If `counts` is neither True nor False.

    Notes
    -----
    Papke and Wooldridge (1996), "Econometric methods for fractional response variables", Journal of Applied
    Econometrics 11, for shares that are no counts.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> y = np.asarray([[1, 9], [5, 5], [8, 2]])
    >>> dose = agd.fit([[-1.0], [0.0], [1.0]], y, loss=Binomial(counts=True))
    >>> dose.predict([[0.0]]).round(2)
    array([0.45])
    """

    name = "binomial"
    domain = "from 0 to 1"

    link: Any = "logit"
    counts: bool = False

    def __post_init__(self) -> None:
        """Refuse a link of another name."""
        as_flag("counts", self.counts)
        super().__post_init__()

    def least_value(self, y: Array) -> Array:
        """Return -y log(y) - (1 - y) log(1 - y), which is 0 at both ends."""
        return -times_log(y, y) - times_log(1.0 - y, 1.0 - y)

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:
        """Return the log probability of m y successes of m trials, each of probability y.

        m is the precision for counts; a share without a count is one trial, of which the precision is the weight.
        """
        trials, weight = (precision, 1.0) if self.counts else (1.0 + 0.0 * y, precision)
        ways = (
            log_gamma(trials + 1.0)
            - log_gamma(trials * y + 1.0)
            - log_gamma(trials * (1.0 - y) + 1.0)
        )
        return weight * (ways - trials * self.least_value(y))

    def outside(self, y: Array) -> Array:
        """Return where y is not within [0, 1]."""
        return ~((y >= 0.0) & (y <= 1.0))


def _stable_terms(s: Array) -> tuple[Array, Array, Array]:
    """Return max(s, 0), e = exp(-|s|) and 1 / (1 + exp(-s)).

    The last is 1 / (1 + e) or e / (1 + e) as s is above 0 or below, and log(1 + exp(s)) is
    max(s, 0) + log(1 + e): nothing overflows or cancels.
    """
    above, below = positive_and_negative_part(s)
    e = namespace(s).exp(below - above)
    return above, e, one_if_positive(s, e) / (1.0 + e)


@dataclass(frozen=True)
class Softmax(BaseLoss):
    r"""Softmax loss: the negative log likelihood of one class of several, by multinomial logistic regression.

    For y in {0, ..., k - 1} and a predictor z of k outputs, with the probabilities p = softmax(z)::

        l(z, y) = log Σ_j exp(z_j) - z_y = -log p_y,    p_j = exp(z_j) / Σ_i exp(z_i)

    The gradient is p_j - [j = y], and the second derivatives p_i [i = j] - p_i p_j, whose largest eigenvalue is
    at most 1/2. A constant that is added to all outputs changes nothing, so that the model has more parameters
    than the data determine. ``agd.fit`` returns the shortest of the equal models: its intercepts sum to 0 over
    the classes, and without a penalty so do the coefficients of each column. With `L2` they do so by themselves;
    other penalties decide between the coefficients by their value.

    Parameters
    ----------
    classes : int, optional
        k, of two or more. By default as many as y has labels, of which ``agd.fit`` takes any numbers.

    Notes
    -----
    Böhning (1992), "Multinomial logistic regression algorithm", Annals of the Institute of Statistical
    Mathematics 44, has the bound on the second derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> Softmax(3).value(np.asarray([[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0]]), np.asarray([2.0, 0.0]))
    array([1.09861229, 0.        ])
    """

    name = "softmax"
    curvature_bound = 0.5
    shift_invariant = True
    has_recession_direction = True
    has_deviance = True
    fixed_dispersion = True
    domain = "the number of a class, from 0"

    classes: float | None = math.inf

    def __post_init__(self) -> None:
        """Refuse a number of classes below two; there is one output for each class."""
        if self.classes != math.inf:
            as_count("classes", self.classes, least=2)
        vars(self).update(outputs=self.classes)

    @property
    def _class_count(self) -> int:
        return int(self.classes or 0)

    def with_classes(self, count: int) -> Softmax:
        """Return the loss of this many classes."""
        return replace(self, classes=count)

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss of each row, shape (..., n)."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return p - [j = y], shape (..., n, k)."""
        return self.value_and_gradient(z, y)[1]

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:  # noqa: ARG002
        """Return 0: the probability of the class that was seen is 1."""
        return namespace(y).zeros_like(y)

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002 - the same for all classes
        """Return diag(p) - p p', shape (..., n, k, k)."""
        xp, p = namespace(z), self.inverse_link(z)
        eye = xp.eye(p.shape[-1], dtype=p.dtype, device=device(p))
        return p[..., None] * (eye - p[..., None, :])

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from exponentials that do not overflow; no digit of 1 - p_y cancels."""
        xp = namespace(z)
        axes = tuple(range(z.ndim))
        # Classes come first, so that sums over them add whole rows of memory.
        z = xp.permute_dims(z, axes[-1:] + axes[:-1])
        numbers = xp.arange(self._class_count, dtype=y.dtype, device=device(y))
        own = xp.reshape(numbers, (-1, *(1,) * (z.ndim - 1))) == y
        z, zero = z - xp.max(z, axis=0), xp.zeros_like(z)
        e, z_own = xp.exp(z), xp.sum(xp.where(own, z, zero), axis=0)
        e_own, rest = xp.exp(z_own), xp.sum(xp.where(own, zero, e), axis=0)
        # Where the row's own class is likely, its probability is 1 but for the rest of the classes.
        likely, total = e_own > 0.5, rest + e_own
        small = xp.log1p(rest / xp.where(likely, e_own, xp.ones_like(e_own)))
        value = xp.where(likely, small, xp.log(total) - z_own)
        return value, xp.permute_dims(xp.where(own, -rest, e) / total, axes[1:] + axes[:1])

    def statistic(self, y: Array) -> Array:
        """Return 1 for the class of each row and 0 for the others, shape (..., n, k)."""
        xp = namespace(y)
        numbers = xp.arange(self._class_count, dtype=y.dtype, device=device(y))
        return xp.astype(y[..., None] == numbers, y.dtype)

    def link(self, mean: Array) -> Array:
        """Return the outputs, of sum 0, of the probabilities `mean` (..., k)."""
        xp = namespace(mean)
        z = xp.log(mean)
        return z - xp.mean(z, axis=-1, keepdims=True)

    def inverse_link(self, z: Array) -> Array:
        """Return softmax(z), the probabilities of the classes."""
        xp = namespace(z)
        e = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)

    def class_shares(self, mean: Array) -> Array:
        """Return the shares of the classes, which the mean of `statistic` is."""
        return mean

    def likeliest_class(self, z: Array) -> Array:
        """Return the number of the class with the largest output, in the dtype of z."""
        xp = namespace(z)
        return xp.astype(xp.argmax(z, axis=-1), z.dtype)

    def class_probabilities(self, z: Array) -> Array:
        """Return softmax(z)."""
        return self.inverse_link(z)

    def outside(self, y: Array) -> Array:
        """Return where y is not the number of a class."""
        return (y < 0.0) | (y >= (self.classes or 0.0)) | (y != namespace(y).floor(y))


class MarginLoss(BaseLoss):
    """A loss of the margin m = s z, with s = -1 for the first of two classes and 1 for the second."""

    classes = 2
    domain = "0 or 1"

    def link(self, mean: Array) -> Array:
        """Return the margin that stands for a share `mean` of the second class."""
        return 2.0 * mean - 1.0

    def inverse_link(self, z: Array) -> Array:
        """Return the share that z stands for, (z + 1) / 2 within [0, 1]."""
        return 0.5 * (clip_between(z, -1.0, 1.0) + 1.0)

    def outside(self, y: Array) -> Array:
        """Return where y is neither 0 nor 1."""
        return (y != 0.0) & (y != 1.0)

    def class_probabilities(self, z: Array) -> Array:
        """Refuse: the loss is not a likelihood.

        Raises
        ------
        AttributeError
            Always.
        """
        raise AttributeError(f"loss {self.name!r} has no probabilities for z of shape {z.shape}")


@dataclass(frozen=True)
class Hinge(MarginLoss):
    r"""The hinge loss of support vector machines, l(z, y) = max(1 - s z, 0) with s = 2 y - 1; not smooth.

    Gradient -s where s z < 1 and 0 elsewhere.

    Notes
    -----
    Cortes and Vapnik (1995), "Support-vector networks", Machine Learning 20. The loss is not a likelihood:
    it has no probabilities, which ``predict_proba`` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> Hinge().value(np.asarray([0.5, 2.0]), np.asarray([0.0, 1.0]))
    array([1.5, 0. ])
    """

    name = "hinge"
    smooth = False
    piecewise_linear = True

    def value(self, z: Array, y: Array) -> Array:
        """Return max(1 - s z, 0), element by element."""
        return positive_and_negative_part(1.0 - (2.0 * y - 1.0) * z)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return -s where s z < 1 and 0 elsewhere."""
        xp, s = namespace(z), 2.0 * y - 1.0
        return -s * xp.astype(s * z < 1.0, z.dtype)

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 0, which holds everywhere but at the kink."""
        return namespace(z).zeros_like(z - y)

    def kinks(self, y: Array) -> list[tuple[Array, Any, Any]]:
        """Return the kink where the margin is 1."""
        return [(2.0 * y - 1.0, -y, 1.0 - y)]

    def prox(self, z: Array, y: Array, step: float) -> Array:
        """Return z with its margin raised by step, and no further than to 1."""
        s = 2.0 * y - 1.0
        return z + s * clip_between(1.0 - s * z, 0.0, step)


@dataclass(frozen=True)
class SquaredHinge(MarginLoss):
    r"""The squared hinge loss, l(z, y) = max(1 - s z, 0)² with s = 2 y - 1.

    Gradient -2 s max(1 - s z, 0); second derivative 2 where s z < 1 and 0 elsewhere.

    Notes
    -----
    Chang, Hsieh and Lin (2008), "Coordinate descent method for large-scale L2-loss linear support vector
    machines", JMLR 9. It has no probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredHinge().value(np.asarray([0.5, 2.0]), np.asarray([0.0, 1.0]))
    array([2.25, 0.  ])
    """

    name = "squared_hinge"
    curvature_bound = 2.0

    def value(self, z: Array, y: Array) -> Array:
        """Return max(1 - s z, 0)², element by element."""
        return clip_between(1.0 - (2.0 * y - 1.0) * z, 0.0, math.inf) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        """Return -2 s max(1 - s z, 0), element by element."""
        s = 2.0 * y - 1.0
        return -2.0 * s * clip_between(1.0 - s * z, 0.0, math.inf)

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 2 where s z < 1 and 0 elsewhere."""
        return 2.0 * namespace(z).astype((2.0 * y - 1.0) * z < 1.0, z.dtype)


@dataclass(frozen=True)
class ModifiedHuber(MarginLoss):
    r"""A squared hinge that is linear for rows far on the wrong side, so that outliers pull less.

    With the margin m = s z and s = 2 y - 1::

        l(m) = max(1 - m, 0)²    if m >= -1
               -4 m              elsewhere

    Gradient -2 s clip(1 - m, 0, 2). The probability of the second class is (clip(z, -1, 1) + 1) / 2.

    Notes
    -----
    Zhang (2004), "Solving large scale linear prediction problems using stochastic gradient descent
    algorithms", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> ModifiedHuber().value(np.asarray([0.5, 2.0]), np.asarray([1.0, 0.0]))
    array([0.25, 8.  ])
    """

    name = "modified_huber"
    curvature_bound = 2.0

    def class_probabilities(self, z: Array) -> Array:
        """Return the shares (1 - clip(z, -1, 1)) / 2 and (1 + clip(z, -1, 1)) / 2, shape (..., n, 2)."""
        probabilities: Array = BaseLoss.class_probabilities(self, z)
        return probabilities

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return -2 s clip(1 - m, 0, 2), element by element."""
        return self.value_and_gradient(z, y)[1]

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 2 where -1 < m < 1 and 0 elsewhere."""
        xp = namespace(z)
        return 2.0 * xp.astype(xp.abs((2.0 * y - 1.0) * z) < 1.0, z.dtype)

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both; with c = clip(1 - m, 0, 2) the loss is c (2 (1 - m) - c), without a branch."""
        s = 2.0 * y - 1.0
        below = 1.0 - s * z
        c = clip_between(below, 0.0, 2.0)
        return c * (2.0 * below - c), -2.0 * s * c
