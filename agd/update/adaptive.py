"""Adaptive gradient methods, which scale each parameter by its past gradients: AdaGrad, RMSProp, Adam and variants.

Each rule is a direction, computed from the exponential moving averages of ``agd.update.moving_averages``, times the
learning rate. `agd.update.Descent` and `agd.update.sgd` apply the rules to an objective.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._tree import sign
from agd._typing import Array, Tree
from agd.update.moving_averages import (
    MomentEstimates,
    adam_rule,
    add_weight_decay,
    check_decay_rates,
    check_eps,
    debias,
    debiased_ratio,
    divide_by_rms,
    filled,
    moving_average,
    quotient,
    squared,
    update_estimates,
    weight_of_terms,
)
from agd.update.rule import (
    Count,
    Rate,
    Rule,
    check_number,
    count_like,
    named_rule,
    rule_from_direction,
    zeros,
)

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "lamb",
    "nadam",
    "radam",
    "rmsprop",
    "yogi",
]


@named_rule
def adagrad(
    learning_rate: Rate = 0.01,
    initial_accumulator: float = 0.0,
    eps: float = 1e-10,
    *,
    eps_in_sqrt: bool = False,
) -> Rule:
    r"""AdaGrad: the gradient divided by the root of the accumulated sum of its squares.

    ::

        s := s + g²
        w := w - lr g / (sqrt(s) + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    initial_accumulator : float
        The initial value of s, 0 or more.
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.
    eps_in_sqrt : bool
        Whether `eps` is added under the square root: the denominator is then sqrt(s + eps).

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Duchi, Hazan and Singer (2011), "Adaptive subgradient methods", JMLR 12. The defaults are
    torch.optim.Adagrad's; optax.adagrad is ``initial_accumulator=0.1, eps=1e-7, eps_in_sqrt=True``.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adagrad(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """
    check_number("initial_accumulator", initial_accumulator, 0.0, math.inf, open_end=True)
    check_eps(eps)

    def direction(grads: Tree, squares: Tree, *_: Any) -> tuple[Tree, Tree]:
        squares = optree.tree_map(operator.add, squares, squared(grads))
        return divide_by_rms(grads, squares, eps, eps_in_sqrt=eps_in_sqrt), squares

    return rule_from_direction(
        learning_rate, direction, lambda params: filled(params, initial_accumulator)
    )


@named_rule
def rmsprop(
    learning_rate: Rate = 0.01,
    decay: float = 0.99,
    eps: float = 1e-8,
    *,
    eps_in_sqrt: bool = False,
) -> Rule:
    r"""RMSProp: AdaGrad with an exponential moving average of the squares in place of their sum.

    ::

        s := decay s + (1 - decay) g²
        w := w - lr g / (sqrt(s) + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    decay : float
        The decay rate of the moving average s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.
    eps_in_sqrt : bool
        Whether `eps` is added under the square root: the denominator is then sqrt(s + eps).

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Tieleman and Hinton (2012), lecture 6.5 of *Neural Networks for Machine Learning*. The defaults
    are torch.optim.RMSprop's; optax.rmsprop is ``decay=0.9, eps_in_sqrt=True``.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = rmsprop(0.1, decay=0.75), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.2])
    """
    check_decay_rates(decay=decay)
    check_eps(eps)

    def direction(grads: Tree, squares: Tree, *_: Any) -> tuple[Tree, Tree]:
        squares = moving_average(decay, squares, squared(grads))
        return divide_by_rms(grads, squares, eps, eps_in_sqrt=eps_in_sqrt), squares

    return rule_from_direction(learning_rate, direction, zeros)


class AdaDeltaMemory(NamedTuple):
    """Moving averages of the squared gradients, and of the squared steps."""

    squares: Tree
    steps: Tree


@named_rule
def adadelta(learning_rate: Rate = 1.0, rho: float = 0.9, eps: float = 1e-6) -> Rule:
    r"""AdaDelta: RMSProp scaled by the root mean square of past steps, so that a step has the units of w.

    ::

        s := rho s + (1 - rho) g²
        u := sqrt(d + eps) / sqrt(s + eps) g
        d := rho d + (1 - rho) u²
        w := w - lr u

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr; the paper has 1.
    rho : float
        The decay rate of the moving averages s and d, in [0, 1).
    eps : float
        A constant that is added under both roots, 0 or more: it decides the size of the first step.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Zeiler (2012), "ADADELTA: an adaptive learning rate method"; the same as torch.optim.Adadelta and
    optax.adadelta.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adadelta(rho=0.75, eps=1.0), np.asarray([2.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-1.414214])
    """
    check_decay_rates(rho=rho)
    check_eps(eps)

    def direction(grads: Tree, memory: AdaDeltaMemory, *_: Any) -> tuple[Tree, AdaDeltaMemory]:
        squares = moving_average(rho, memory.squares, squared(grads))
        step = optree.tree_map(
            lambda g, s, d: ((d + eps) / (s + eps)) ** 0.5 * g, grads, squares, memory.steps
        )
        return step, AdaDeltaMemory(squares, moving_average(rho, memory.steps, squared(step)))

    return rule_from_direction(
        learning_rate, direction, lambda params: AdaDeltaMemory(zeros(params), zeros(params))
    )


def _adam_direction(
    b1: float, b2: float, eps: float, grads: Tree, memory: MomentEstimates, k: Count
) -> tuple[Tree, MomentEstimates]:
    """Return m' / (sqrt(s') + eps), with the bias of both moving averages corrected."""
    new = update_estimates(b1, b2, grads, memory)
    return debiased_ratio(b1, b2, new.mean, new.squares, k, eps), new


def _adam_with_decay(
    learning_rate: Rate, b1: float, b2: float, eps: float, weight_decay: float = 0.0
) -> Rule:
    """Make Adam, or with a weight decay AdamW."""
    check_number("weight_decay", weight_decay, 0.0, math.inf, open_end=True)

    def direction(
        grads: Tree, memory: MomentEstimates, params: Tree, k: Count
    ) -> tuple[Tree, MomentEstimates]:
        step, new = _adam_direction(b1, b2, eps, grads, memory, k)
        return add_weight_decay(step, params, weight_decay), new

    return adam_rule(learning_rate, b1, b2, eps, direction)


@named_rule
def adam(learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Rule:
    r"""Adam: the ratio of bias-corrected estimates of the gradient's mean and root mean square.

    With k the number of this update, from 1::

        m := b1 m + (1 - b1) g          m' = m / (1 - b1^k)
        s := b2 s + (1 - b2) g²         s' = s / (1 - b2^k)
        w := w - lr m' / (sqrt(s') + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Kingma and Ba (2015), "Adam: a method for stochastic optimization"; the same as optax.adam and
    torch.optim.Adam.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adam(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """
    return _adam_with_decay(learning_rate, b1, b2, eps)


@named_rule
def adamw(
    learning_rate: Rate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Rule:
    r"""AdamW: Adam with decoupled weight decay, which is not scaled by the gradients.

    ::

        w := w - lr (m' / (sqrt(s') + eps) + weight_decay w)

    with m' and s' as in `adam`. All parameters decay, including an intercept.

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.
    weight_decay : float
        The coefficient of the decay, 0 or more; it is multiplied by lr.

    Returns
    -------
    Rule
        The rule; its ``update`` needs the params.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Loshchilov and Hutter (2019), "Decoupled weight decay regularization". The default decay is
    torch.optim.AdamW's; optax.adamw's is 1e-4.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w = adamw(0.1, weight_decay=0.5), np.asarray([2.0])
    >>> rule.update(np.asarray([10.0]), rule.init(w), w)[0].round(6)
    array([-0.2])
    """
    return _adam_with_decay(learning_rate, b1, b2, eps, weight_decay)


@named_rule
def nadam(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""NAdam: Adam with Nesterov momentum.

    ::

        m, s as in adam
        m' = b1 m / (1 - b1^(k+1)) + (1 - b1) g / (1 - b1^k)
        w := w - lr m' / (sqrt(s / (1 - b2^k)) + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Dozat (2016), "Incorporating Nesterov momentum into Adam"; the same as optax.nadam.
    torch.optim.NAdam also increases b1 with the number of steps.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = nadam(0.1, b1=0.0), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """

    def direction(
        grads: Tree, memory: MomentEstimates, _: Tree, k: Count
    ) -> tuple[Tree, MomentEstimates]:
        new = update_estimates(b1, b2, grads, memory)

        def ahead(m: Array, g: Array) -> Array:
            next_weight, weight = weight_of_terms(b1, k + 1, m), weight_of_terms(b1, k, g)
            mean: Array = (b1 / next_weight) * m + ((1.0 - b1) / weight) * g
            return mean

        mean = optree.tree_map(ahead, new.mean, grads)
        return divide_by_rms(mean, debias(b2, new.squares, k), eps), new

    return adam_rule(learning_rate, b1, b2, eps, direction)


@named_rule
def lamb(
    learning_rate: Rate = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> Rule:
    r"""LAMB: AdamW whose step in each leaf of the tree has the norm of that leaf, times the rate.

    ::

        u = m' / (sqrt(s') + eps) + weight_decay w
        w := w - lr |w| / |u| u

    for each leaf, with m' and s' as in `adam`; where a norm is 0, the ratio of the norms is taken to be 1.

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.
    weight_decay : float
        The coefficient of the decay, 0 or more.

    Returns
    -------
    Rule
        The rule; its ``update`` needs the params.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    You et al. (2020), "Large batch optimization for deep learning"; the same as optax.lamb.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w = lamb(0.1), np.asarray([3.0, 4.0])
    >>> rule.update(np.asarray([10.0, 0.0]), rule.init(w), w)[0].round(6)
    array([-0.5, -0. ])
    """
    check_number("weight_decay", weight_decay, 0.0, math.inf, open_end=True)

    def direction(
        grads: Tree, memory: MomentEstimates, params: Tree, k: Count
    ) -> tuple[Tree, MomentEstimates]:
        step, new = _adam_direction(b1, b2, eps, grads, memory, k)
        step = add_weight_decay(step, params, weight_decay)
        return optree.tree_map(_scale_to_param, step, params), new

    return adam_rule(learning_rate, b1, b2, eps, direction)


def _scale_to_param(step: Array, param: Array) -> Array:
    """Scale a direction to the norm of its leaf by LAMB's trust ratio, which is 1 where either norm is 0."""
    xp = backends.namespace(step)
    param_norm, step_norm = xp.sum(param * param) ** 0.5, xp.sum(step * step) ** 0.5
    defined = (param_norm > 0.0) & (step_norm > 0.0)
    one = xp.ones_like(param_norm)
    return xp.where(defined, param_norm / xp.where(defined, step_norm, one), one) * step


class AMSGradMemory(NamedTuple):
    """Adam's two moving averages, and the entrywise maximum of the bias-corrected mean of squares."""

    estimates: MomentEstimates
    largest: Tree


@named_rule
def amsgrad(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""AMSGrad: Adam with a non-decreasing denominator, so that the effective rates never increase.

    ::

        m, s as in adam
        c := max(c, s / (1 - b2^k))
        w := w - lr m / (1 - b1^k) / (sqrt(c) + eps)

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Reddi, Kale and Kumar (2018), "On the convergence of Adam and beyond"; the same as optax.amsgrad.
    torch.optim.Adam(amsgrad=True) takes the maximum before the bias correction.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = amsgrad(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """
    check_decay_rates(b1=b1, b2=b2)
    check_eps(eps)

    def memory(params: Tree) -> AMSGradMemory:
        zero = zeros(params)
        return AMSGradMemory(MomentEstimates(zero, zero), zero)

    def direction(
        grads: Tree, memory: AMSGradMemory, _: Tree, k: Count
    ) -> tuple[Tree, AMSGradMemory]:
        new = update_estimates(b1, b2, grads, memory.estimates)
        largest = optree.tree_map(_entrywise_max, memory.largest, debias(b2, new.squares, k))
        return divide_by_rms(debias(b1, new.mean, k), largest, eps), AMSGradMemory(new, largest)

    return rule_from_direction(learning_rate, direction, memory, counted=True)


@named_rule
def adamax(
    learning_rate: Rate = 2e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""AdaMax: Adam with an exponentially weighted infinity norm in place of the root mean square.

    ::

        m := b1 m + (1 - b1) g
        s := max(b2 s, |g| + eps)
        w := w - lr m / (1 - b1^k) / s

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Kingma and Ba (2015), "Adam: a method for stochastic optimization", section 7.1; the same as
    optax.adamax and torch.optim.Adamax.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = adamax(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """

    def direction(
        grads: Tree, memory: MomentEstimates, _: Tree, k: Count
    ) -> tuple[Tree, MomentEstimates]:
        mean = moving_average(b1, memory.mean, grads)
        largest = optree.tree_map(
            lambda s, g: _entrywise_max(b2 * s, backends.namespace(g).abs(g) + eps),
            memory.squares,
            grads,
        )
        step = optree.tree_map(lambda m, s: quotient(m, s, eps), debias(b1, mean, k), largest)
        return step, MomentEstimates(mean, largest)

    return adam_rule(learning_rate, b1, b2, eps, direction)


@named_rule
def radam(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Rule:
    r"""RAdam: rectified Adam, which uses momentum alone until the variance of the mean of squares is bounded.

    With rho = 2 / (1 - b2) - 1 and rho_k = rho - 2 k b2^k / (1 - b2^k)::

        u = r_k m' / (sqrt(s') + eps)   if rho_k >= 5, else   m'
        w := w - lr u

    where m' and s' are as in `adam` and r_k² = (rho_k - 4) (rho_k - 2) rho / ((rho - 4) (rho - 2)
    rho_k).

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Liu et al. (2020), "On the variance of the adaptive learning rate and beyond"; the same as
    optax.radam, and for eps = 0 as torch.optim.RAdam.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = radam(0.1), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-1.])
    """
    check_decay_rates(b2=b2)
    limit = 2.0 / (1.0 - b2) - 1.0

    def direction(
        grads: Tree, memory: MomentEstimates, _: Tree, k: Count
    ) -> tuple[Tree, MomentEstimates]:
        step, new = _adam_direction(b1, b2, eps, grads, memory, k)
        mean = debias(b1, new.mean, k)
        return optree.tree_map(lambda m, u: _rectify(limit, b2, k, m, u), mean, step), new

    return adam_rule(learning_rate, b1, b2, eps, direction)


@named_rule
def yogi(
    learning_rate: Rate = 1e-2,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-3,
    initial_accumulator: float = 1e-6,
) -> Rule:
    r"""Yogi: Adam whose estimate of the squares changes by at most (1 - b2) g² in a step.

    ::

        s := s - (1 - b2) sign(s - g²) g²

    with m and the step as in `adam`.

    Parameters
    ----------
    learning_rate : float, array or schedule
        lr.
    b1, b2 : float
        The decay rates of the moving averages m and s, in [0, 1).
    eps : float
        A constant that is added to the denominator so that it is not 0; 0 or more.
    initial_accumulator : float
        The initial value of m and s, 0 or more.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError, TypeError
        If a hyper-parameter is out of range.

    Notes
    -----
    Zaheer et al. (2018), "Adaptive methods for nonconvex optimization"; the same as optax.yogi.

    Examples
    --------
    >>> import numpy as np
    >>> rule, g = yogi(0.1, eps=0.0, initial_accumulator=0.0), np.asarray([10.0])
    >>> rule.update(g, rule.init(g))[0].round(6)
    array([-0.1])
    """
    check_number("initial_accumulator", initial_accumulator, 0.0, math.inf, open_end=True)

    def direction(
        grads: Tree, memory: MomentEstimates, _: Tree, k: Count
    ) -> tuple[Tree, MomentEstimates]:
        squares = optree.tree_map(
            lambda s, square: s - (1.0 - b2) * sign(s - square) * square,
            memory.squares,
            squared(grads),
        )
        mean = moving_average(b1, memory.mean, grads)
        return debiased_ratio(b1, b2, mean, squares, k, eps), MomentEstimates(mean, squares)

    return adam_rule(learning_rate, b1, b2, eps, direction, start=initial_accumulator)


def _entrywise_max(a: Array, b: Array) -> Array:
    """Return the larger of two arrays, entry by entry."""
    return backends.namespace(a).maximum(a, b)


def _rectify(limit: float, b2: float, count: Count, mean: Array, step: Array) -> Array:
    """Return r_k times the step where the variance of the mean of squares is bounded, else the mean."""
    k: Any = float(count) if isinstance(count, int) else count_like(count, mean)
    xp = backends.namespace(k)
    rho = limit - 2.0 * k * b2**k / (1.0 - b2**k)
    bounded = rho >= 5.0
    # `where` evaluates both branches, so that the unused square root must not be of a negative number.
    safe = xp.where(bounded, rho, 5.0 + 0.0 * rho)
    square = (safe - 4.0) * (safe - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * safe)
    if isinstance(bounded, bool):  # a count on the host
        return xp.sqrt(square) * step if bounded else mean
    return xp.where(bounded, xp.sqrt(square) * step, mean)
