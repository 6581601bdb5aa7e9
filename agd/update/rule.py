"""What a rule is: its state, its rate, its equality, and the constructor that all rules share.

A rule is a pure pair of functions in optax's convention. `rule_from_direction` makes one from a direction
and a rate; `named_rule` lets it know its call, so that equal rules share a compiled step. The rules
themselves are in ``agd.update.rules``, ``agd.update.adaptive`` and ``agd.update.transforms``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Final, NamedTuple, ParamSpec, TypeAlias

import numpy as np
import optree

from agd import backends
from agd._typing import Array, NativeArray, Tree

__all__ = [
    "AUTO",
    "Count",
    "Direction",
    "Rate",
    "Rule",
    "RuleState",
    "apply_updates",
    "check_number",
    "check_rate",
    "check_rule",
    "compiled",
    "count_like",
    "count_on_host",
    "first_count",
    "gradient_direction",
    "in_single_precision",
    "is_value_type",
    "is_zero",
    "named_rule",
    "next_count",
    "rate_at",
    "rule_from_direction",
    "scale_by_rate",
    "zeros",
]

VALUE_TYPES = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    np.dtype,
    np.generic,
    optree.PyTreeSpec,
)


def is_value_type(value: Any) -> bool:
    """Return whether a value is fully described by what `==` compares.

    That is true of this library's losses, penalties, rules and solvers, if all that they hold is of that
    kind: compiled code may then be cached by equality. A function or an object of the user's may depend on
    anything else, which may have changed since it was compiled.

    Examples
    --------
    >>> from agd.loss import L1
    >>> from agd.update import gradient_descent
    >>> is_value_type(L1(0.1)), is_value_type(gradient_descent(0.1))
    (True, True)
    >>> is_value_type(gradient_descent(abs))
    False
    """
    if isinstance(value, VALUE_TYPES):
        return True
    if isinstance(value, functools.partial):
        return is_value_type((value.func, value.args, tuple(value.keywords.values())))
    if isinstance(value, types.FunctionType):
        return _is_defined_here(value) and value.__closure__ is None
    if not _is_defined_here(type(value)) and type(value) is not tuple:
        return isinstance(value, type) and _is_defined_here(value)
    if isinstance(value, tuple):
        return all(is_value_type(part) for part in value)
    if isinstance(value, Rule):
        return value.factory is not None and is_value_type((value.name, value.hyperparameters))
    if not dataclasses.is_dataclass(value):
        return False
    kind: Any = type(value)
    if not kind.__dataclass_params__.frozen:
        return False
    fields = (field for field in dataclasses.fields(value) if field.compare)
    return all(is_value_type(getattr(value, field.name)) for field in fields)


def _is_defined_here(named: Any) -> bool:
    return str(named.__module__).partition(".")[0] == __name__.partition(".")[0]


def compiled(backend: backends.Backend, f: Any, constant: Any) -> Any:
    """Return ``f(static, *arrays)`` compiled, where the backend compiles; cached if the constant is a value."""
    return backend.compile(f) if is_value_type(constant) else backend.compile_unshared(f)


Init = Callable[[Tree], Any]
Update = Callable[..., tuple[Tree, Any]]


def _dtype_of(value: Any) -> Any:
    """Return an array's dtype; None for a number of Python's."""
    return getattr(value, "dtype", None)


def _is_half(leaf: Any) -> bool:
    kind = _dtype_of(leaf)
    # The size first, since the name of a NumPy dtype is slow to make.
    return getattr(kind, "itemsize", 0) == 2 and str(kind).endswith("float16")


def _has_half_leaf(*trees: Tree) -> bool:
    for (
        tree
    ) in trees:  # loops rather than any(): this runs at every update, and any() takes twice as long
        for leaf in optree.tree_leaves(tree):
            if _is_half(leaf):
                return True
    return False


def _widen_halves(tree: Tree) -> Tree:
    def widen(leaf: Array) -> Array:
        if not _is_half(leaf):
            return leaf
        xp = backends.namespace(leaf)
        return xp.astype(leaf, xp.float32)

    return optree.tree_map(widen, tree)


def _narrow_like(updates: Tree, grads: Tree, params: Tree) -> Tree:
    """Give an update the dtype of its parameter, if its gradient came in half precision."""

    def narrow(step: Array, grad: Array, like: Array) -> Array:
        if not _is_half(grad):
            return step
        return backends.namespace(step).astype(step, like.dtype)

    return optree.tree_map(narrow, updates, grads, grads if params is None else params)


def _check_params(params: Tree) -> None:
    for leaf in optree.tree_leaves(params):
        if not backends.is_array(leaf):
            raise TypeError(
                f"params must be a tree of arrays, got {leaf!r} ({type(leaf).__name__}): a number is "
                f"np.asarray({leaf!r})"
                if isinstance(leaf, Real)
                else f"params must be a tree of arrays, got {type(leaf).__name__}"
            )


def in_single_precision(init: Init, update: Update) -> tuple[Init, Update]:
    """Return a rule's two functions, with every leaf of half precision widened to float32 on its way in.

    Parameters
    ----------
    init, update : callable
        The functions of a `Rule`.

    Returns
    -------
    init, update : callable
        The same for other dtypes. For half precision the state is float32, and the updates have the
        dtype of the params (of the gradients, where no params are given).
    """

    def first(params: Tree) -> Any:
        _check_params(params)
        return init(_widen_halves(params) if _has_half_leaf(params) else params)

    def step(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        if not _has_half_leaf(grads, params):
            return update(grads, state, params)
        updates, new = update(_widen_halves(grads), state, _widen_halves(params))
        return _narrow_like(updates, grads, params), new

    return first, step


AUTO: Final = "auto"
"""The learning rate that stands for 1/L; a solver resolves it, since it knows the objective."""

Rate: TypeAlias = float | NativeArray | Callable[[NativeArray], NativeArray] | str
"""A learning rate: a number, an array of one rate for each problem, a schedule, or ``"auto"``."""

Count: TypeAlias = Array | int
"""A number of updates: an array of shape (), or a number on the host (`count_on_host`)."""

P = ParamSpec("P")


@dataclass(frozen=True, eq=False)
class Rule:
    """A pure update rule: ``init(params)`` and ``update(grads, state, params)``.

    Attributes
    ----------
    init : callable
        ``init(params) -> state``, a NamedTuple of arrays or trees; of float32 for params of half
        precision, in which running means would stand still.
    update : callable
        ``update(grads, state, params=None) -> (updates, state)``; `apply_updates` adds the updates.
    name : str
        The rule's factory.
    hyperparameters : tuple of (str, object)
        What it was called with. Rules with equal names and hyper-parameters are equal, so that a
        compiled step is shared between them.
    factory : callable, or None
        The function that made it, where this is one of agd's by name.
    recipe : callable, or None
        The call that makes it anew, by which a rule is pickled and copied; None for one of your own, whose
        functions are pickled.

    Examples
    --------
    >>> from agd.update import gradient_descent
    >>> gradient_descent(0.1) == gradient_descent(0.1)
    True
    """

    init: Callable[[Tree], Any]
    update: Callable[..., tuple[Tree, Any]]
    name: str = "rule"
    hyperparameters: tuple[tuple[str, Any], ...] = ()
    factory: Callable[..., Rule] | None = None
    recipe: Callable[[], Rule] | None = None

    def __reduce__(self) -> Any:
        """Pickle and copy the call that makes the rule, whose two functions are closures."""
        if self.recipe is None:
            return Rule, (self.init, self.update, self.name, self.hyperparameters)
        return self.recipe, ()

    @property
    def learning_rate(self) -> Any:
        """The rate that the rule was called with; None for a rule that takes none."""
        return dict(self.hyperparameters).get("learning_rate")

    @property
    def auto_rate(self) -> bool:
        """Whether the rate is "auto", which a solver replaces by 1/L."""
        return isinstance(self.learning_rate, str) and self.learning_rate == AUTO

    @property
    def constant_rate(self) -> float | None:
        """The rate where it is one number; None for a schedule, an array and "auto"."""
        rate = self.learning_rate
        return float(rate) if isinstance(rate, Real) else None

    def with_learning_rate(self, learning_rate: Rate) -> Rule:
        """Return the same rule with another learning rate.

        Parameters
        ----------
        learning_rate : float, array, schedule or "auto"
            The new rate.

        Returns
        -------
        Rule
            The rule.

        Raises
        ------
        TypeError
            If the rule was not made by a factory that takes a learning rate.
        """
        known = dict(self.hyperparameters)
        if self.factory is None or "learning_rate" not in known:
            raise TypeError(f"rule {self.name!r} takes no learning_rate")
        return self.factory(**{**known, "learning_rate": learning_rate})

    def __repr__(self) -> str:
        """Give the call that makes this rule."""
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.hyperparameters)})"

    def _key(self) -> Any:
        key = (self.name, self.hyperparameters, self.factory)
        try:
            hash(key)
        except TypeError:  # an array as learning rate: equal to itself alone
            return id(self)
        return key if self.factory is not None else id(self)

    def __eq__(self, other: object) -> bool:
        """Compare name and hyper-parameters."""
        return isinstance(other, Rule) and self._key() == other._key()

    def __hash__(self) -> int:
        """Hash what `__eq__` compares."""
        return hash(self._key())


def named_rule(factory: Callable[P, Rule]) -> Callable[P, Rule]:
    """Give the rules of a factory its name and the arguments of its call; they compute in float32 or better."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Rule:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        rule = factory(*args, **kwargs)
        init, update = in_single_precision(rule.init, rule.update)
        return replace(
            rule,
            init=init,
            update=update,
            name=factory.__name__,
            hyperparameters=tuple(bound.arguments.items()),
            factory=make,
            recipe=functools.partial(make, *args, **kwargs),
        )

    return make


def is_zero(value: Any) -> bool:
    """Return whether a hyper-parameter is the number 0; an array never is, since that is a read."""
    return isinstance(value, Real) and float(value) == 0.0


def check_number(name: str, value: object, low: float, high: float, *, open_end: bool) -> None:
    """Refuse a hyper-parameter outside [low, high], or [low, high) if `open_end`."""
    if not isinstance(value, Real) and backends.is_array(value):
        return  # it cannot be read without the host; `inject_hyperparams` keeps numbers as arrays
    need = f"in [{low:g}, {high:g}{')' if open_end else ']'}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number {need}, got {value!r} ({type(value).__name__})")
    inside = low <= float(value) < high or (not open_end and float(value) == high)
    if not inside or not math.isfinite(float(value)):
        raise ValueError(f"{name} must be a number {need}, got {value!r}")


def check_rule(name: str, rule: object) -> None:
    """Raise TypeError for what is no rule."""
    if not isinstance(rule, Rule):
        raise TypeError(f"{name} must be rules such as agd.update.adam(0.1), got {rule!r}")


def check_rate(learning_rate: Rate, *, auto: bool = False) -> None:
    """Refuse what is no learning rate: a number of 0 or more, a schedule, an array or "auto"."""
    if isinstance(learning_rate, str):
        if not (auto and learning_rate == AUTO):
            allowed = ", a schedule or 'auto'" if auto else " or a schedule"
            raise ValueError(f"learning_rate must be a number{allowed}, got {learning_rate!r}")
    elif not callable(learning_rate):
        check_number("learning_rate", learning_rate, 0.0, math.inf, open_end=True)


def first_count(params: Tree, *, needed: bool) -> Array | None:
    """Return a counter at 0 on the device of the params, or None where none is needed."""
    return zero_count(params) if needed else None


def count_like(count: Count, like: Array) -> Array:
    """Return a counter as a number of the dtype and on the device of an array."""
    xp = backends.namespace(like)
    if isinstance(count, int):
        return xp.full((), float(count), dtype=like.dtype, device=backends.device(like))
    return xp.astype(count, like.dtype)


def first_leaf(tree: Tree) -> Array:
    """Return the first array of a tree, whose library and device numbers beside it have; NumPy's 0 if it has none."""
    leaves: list[Array] = optree.tree_leaves(tree)
    zero: Any = np.zeros(())
    return leaves[0] if leaves else zero


def zero_count(params: Tree) -> Array:
    """Return a counter at 0 on the device of the params."""
    like = first_leaf(params)
    xp = backends.namespace(like)
    return xp.zeros((), dtype=xp.int32, device=backends.device(like))


def zeros(params: Tree) -> Tree:
    """Return zeros in the structure of the params, on their device."""
    return optree.tree_map(lambda p: backends.namespace(p).zeros_like(p), params)


def next_count(count: Count | None) -> Any:
    """Return the counter after one more update."""
    return None if count is None else count + 1


def count_on_host(first_state: Any) -> Any:
    """Return the first state of a rule with its counter as a number of Python's, where it has one.

    What depends on the counter alone, such as the bias of a moving average, then costs no operation on a
    device. For a loop that is not traced.
    """
    counted = isinstance(first_state, RuleState) and first_state.k is not None
    return first_state._replace(k=0) if counted else first_state


def rate_at(learning_rate: Rate, count: Count | None, like: Array) -> Any:
    """Return the rate for this update: a number, or an array of the dtype of `like`."""
    if isinstance(learning_rate, str):
        raise ValueError(  # noqa: TRY004 - the type is right, the value is not for here
            "learning_rate='auto' stands for 1/L, which only a method that knows the objective can "
            "find: give a number or a schedule, or use the rule in agd.fit"
        )
    if callable(learning_rate):
        number: Any = count  # a schedule has a counter
        return _rate_beside(learning_rate(count_like(number, like)), like)
    return _rate_beside(learning_rate, like)


def _rate_beside(rate: Any, like: Array) -> Any:
    """Return a rate as a number, or as an array of the library of `like`: its value counts, and not its type."""
    if isinstance(rate, Real):
        return float(rate)  # arrays of other libraries do not take a NumPy number
    if not backends.is_array(rate):
        raise TypeError(
            f"learning_rate must be a number, or a schedule that gives one, got {type(rate).__name__}"
        )
    if backends.of(rate) is backends.of(like):
        return rate
    return backends.to_device_of(backends.to_numpy(rate), like, like.dtype)


def scale_by_rate(learning_rate: Rate, count: Count | None, tree: Tree) -> Tree:
    """Multiply a tree by minus the rate; an array of rates belongs to the leading axes of every leaf."""

    def scaled(leaf: Array) -> Array:
        rate = rate_at(learning_rate, count, leaf)
        if type(rate) is float:
            return -rate * leaf
        if _dtype_of(rate) is not None and rate.ndim:
            xp = backends.namespace(leaf)
            rate = xp.reshape(rate, (*rate.shape, *(1,) * (leaf.ndim - rate.ndim)))
        step: Array = _match_dtype(rate, leaf) * leaf
        return -step

    return optree.tree_map(scaled, tree)


def _match_dtype(rate: Any, leaf: Array) -> Any:
    kind = _dtype_of(rate)
    if kind is None or kind == leaf.dtype:
        return rate
    return backends.namespace(leaf).astype(rate, leaf.dtype)


class RuleState(NamedTuple):
    """The state of a rule that is a direction times a rate.

    Attributes
    ----------
    k : array, shape (), or int, or None
        Updates made so far; None where neither the rate nor the direction depends on it. A number of
        Python's where a loop that is not traced keeps it on the host.
    memory : NamedTuple or tree of arrays
        What the direction carries from one update to the next; () if nothing.
    """

    k: Count | None
    memory: Any


Direction: TypeAlias = Callable[[Tree, Any, Tree, Any], tuple[Tree, Any]]
"""(gradients, memory, params, number of this update from 1 on) -> (direction, memory)."""


def no_memory(_: Tree) -> tuple[()]:
    """Return the memory of a direction that needs nothing but the gradients."""
    return ()


def gradient_direction(grads: Tree, *_: Any) -> tuple[Tree, tuple[()]]:
    """Return the gradient itself, the direction of gradient descent."""
    return grads, ()


def rule_from_direction(
    learning_rate: Rate,
    direction: Direction,
    memory: Callable[[Tree], Any] = no_memory,
    *,
    auto: bool = False,
    counted: bool = False,
) -> Rule:
    """Make the rule w := w - learning_rate direction, with its state and its step counter.

    Parameters
    ----------
    learning_rate : float, array, schedule or "auto"
        The rate. A schedule is called with the number of updates made before this one.
    direction : callable
        ``direction(grads, memory, params, k) -> (direction, memory)``, where k counts this update from 1.
    memory : callable
        ``memory(params)`` returns the memory before the first update.
    auto : bool
        Whether the rate may be "auto".
    counted : bool
        Whether the direction uses k; it is None otherwise, unless the rate is a schedule.

    Returns
    -------
    Rule
        The rule; its states are `RuleState`.

    Raises
    ------
    ValueError, TypeError
        If the rate is out of range.
    """
    check_rate(learning_rate, auto=auto)
    needed = counted or callable(learning_rate)

    def init(params: Tree) -> RuleState:
        return RuleState(first_count(params, needed=needed), memory(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, RuleState]:
        k = next_count(state.k)
        uphill, kept = direction(grads, state.memory, params, k)
        return scale_by_rate(learning_rate, state.k, uphill), RuleState(k, kept)

    return Rule(init, update)


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add updates to params, leaf by leaf.

    Parameters
    ----------
    params, updates : tree of arrays
        Of one structure.

    Returns
    -------
    tree of arrays
        params + updates, with the dtypes of params; nothing is written in place.

    Raises
    ------
    TypeError
        If the sum is of another kind than the params, as of integers and real updates.
    ValueError
        If an update has another shape than its parameter.

    Examples
    --------
    >>> import numpy as np
    >>> apply_updates({"w": np.asarray([1.0, 2.0])}, {"w": np.asarray([0.5, 0.0])})
    {'w': array([1.5, 2. ])}
    """
    return optree.tree_map(_add_update, params, updates)


def _add_update(param: Any, step: Any) -> Any:
    total = param + step
    shapes = [np.shape(param), np.shape(step), np.shape(total)]
    if shapes[1] != shapes[0] or shapes[2] != shapes[0]:  # numbers would be added to every entry
        raise ValueError(
            f"updates must have the shapes of params, got an update of shape {tuple(shapes[1])} for a parameter "
            f"of shape {tuple(shapes[0])}"
        )
    kind = _dtype_of(param)
    if kind is None or total.dtype == kind:
        return total
    xp = backends.namespace(param)
    for group in ("bool", "integral", "real floating"):
        if xp.isdtype(kind, group) and not xp.isdtype(total.dtype, group):
            raise TypeError(
                f"params must be of a dtype that keeps params + updates, {total.dtype}, got {kind}"
            )
    return xp.astype(total, kind)
