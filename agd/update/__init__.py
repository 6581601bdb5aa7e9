"""Room three: how w MOVES. Pure rules, schedules of their rates, and methods that drive them.

A rule is a pure pair ``init(params) -> state`` and ``update(grads, state, params) -> (updates,
state)``, in optax's convention, on any tree of arrays of any library.

>>> import numpy as np
>>> from agd import update
>>> rule = update.gradient_descent(0.1)
>>> w = {"a": np.asarray([1.0, 2.0])}
>>> updates, state = rule.update({"a": np.asarray([10.0, 0.0])}, rule.init(w), w)
>>> update.apply_updates(w, updates)
{'a': array([0., 2.])}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agd._typing import Loss, Method
from agd._validation import choice
from agd.update import (
    adam_family,
    adam_variants,
    adaptive,
    combine,
    partition,
    rules,
    scale,
    schedules,
    signs,
    transforms,
)
from agd.update._rule import Rule, apply_updates
from agd.update.adam_family import *
from agd.update.adam_variants import *
from agd.update.adaptive import *
from agd.update.combine import *
from agd.update.descent import Accelerated, Descent
from agd.update.partition import *
from agd.update.rules import *
from agd.update.scale import *
from agd.update.schedules import *
from agd.update.signs import *
from agd.update.transforms import *

__all__ = ["METHODS", "Accelerated", "Descent", "Rule", "apply_updates", "resolve"]
__all__ += adam_family.__all__
__all__ += adam_variants.__all__
__all__ += adaptive.__all__
__all__ += combine.__all__
__all__ += partition.__all__
__all__ += rules.__all__
__all__ += scale.__all__
__all__ += schedules.__all__
__all__ += signs.__all__
__all__ += transforms.__all__

_FILES = (rules, adaptive, adam_family, adam_variants, signs)

METHODS: dict[str, Callable[..., Rule]] = {
    "gd": rules.gradient_descent,
    **{name: getattr(module, name) for module in _FILES for name in module.__all__},
}
"""Rules by the names that ``agd.fit`` takes; ``"gd"`` is `gradient_descent`."""


def resolve(method: str | Rule | Method, loss: Loss) -> Method:
    """Return the method that a name, a rule or a method stands for, with a loss of this curvature.

    Parameters
    ----------
    method : str, Rule or Method
        ``"auto"``, a key of `METHODS`, a rule, or an object with ``init`` and ``step``.
    loss : Loss
        It says whether 1/L is a step that is safe everywhere.

    Returns
    -------
    Method
        The method.

    Raises
    ------
    ValueError
        For an unknown name, and a rule whose rate is left to a loss without a curvature bound.
    TypeError
        If `method` is none of these.

    Examples
    --------
    >>> from agd.loss import Squared
    >>> resolve("adam", Squared()).name
    'adam(learning_rate=0.001, b1=0.9, b2=0.999, eps=1e-08)'
    """
    if not isinstance(method, (str, Rule)):
        return _method(method)
    unbounded = loss.curvature is None
    if method == "auto":
        return Accelerated(backtracking=unbounded)
    rule = (
        METHODS[choice("method", method, ("auto", *METHODS))]()
        if isinstance(method, str)
        else method
    )
    descent = Descent(rule)
    if not (descent.auto and unbounded):
        return descent
    if rule.name == "gradient_descent":
        return Accelerated(momentum=False, rescaled=False, backtracking=True)
    raise ValueError(
        f"method {rule.name!r} needs a learning rate with loss {loss.name!r}, whose curvature has no "
        f"bound: pass agd.update.{rule.name}(0.01), or method='auto'"
    )


def _method(method: Any) -> Method:
    if isinstance(method, type) or not (hasattr(method, "init") and hasattr(method, "step")):
        raise TypeError(
            f"method must be a name, a rule such as agd.update.adam(0.1) or an object with init and "
            f"step, got {method!r}"
        )
    found: Method = method
    return found
