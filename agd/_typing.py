"""Names for the things that pass between the rooms, and the protocols they follow.

An array is whatever follows the Python Array API (directly or through ``array-api-compat``): `Array` is a
protocol of the members that agd uses, and `Namespace` is the library's module of functions, so that no
library has to be imported to say what is meant.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

__all__ = [
    "Array",
    "BatchColumn",
    "Batches",
    "Data",
    "HostArray",
    "LinearAlgebra",
    "Loss",
    "Matrix",
    "Method",
    "Namespace",
    "NativeArray",
    "NotApplicable",
    "Objective",
    "OrthogonalFactors",
    "Params",
    "Penalty",
    "Progress",
    "Scalar",
    "State",
    "StepState",
    "Stepper",
    "Tree",
    "get_progress",
]


class Array(Protocol):  # noqa: PLW1641 - arrays have no hash
    """An array of any library that follows the Python Array API: the members that agd relies on.

    The other operand of an operator is an array of the same library, or a Python number.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        ...

    @property
    def ndim(self) -> int:
        """The number of axes."""
        ...

    @property
    def dtype(self) -> Any:
        """The dtype, an object of the library's own."""
        ...

    @property
    def T(self) -> Array:  # noqa: N802 - the standard's name
        """The transpose of a matrix."""
        ...

    def __getitem__(self, key: Any, /) -> Array: ...
    def __bool__(self) -> bool: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __neg__(self) -> Array: ...
    def __abs__(self) -> Array: ...
    def __invert__(self) -> Array: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __rtruediv__(self, other: Any, /) -> Array: ...
    def __pow__(self, other: Any, /) -> Array: ...
    def __rpow__(self, other: Any, /) -> Array: ...
    def __floordiv__(self, other: Any, /) -> Array: ...
    def __mod__(self, other: Any, /) -> Array: ...
    def __matmul__(self, other: Any, /) -> Array: ...
    def __rmatmul__(self, other: Any, /) -> Array: ...
    def __and__(self, other: Any, /) -> Array: ...
    def __or__(self, other: Any, /) -> Array: ...
    def __lt__(self, other: Any, /) -> Array: ...
    def __le__(self, other: Any, /) -> Array: ...
    def __gt__(self, other: Any, /) -> Array: ...
    def __ge__(self, other: Any, /) -> Array: ...
    def __eq__(self, other: Any, /) -> Array: ...  # type: ignore[override]  # entry by entry
    def __ne__(self, other: Any, /) -> Array: ...  # type: ignore[override]  # entry by entry


class OrthogonalFactors(Protocol):
    """The factors of A = QR."""

    @property
    def Q(self) -> Array:  # noqa: N802 - the standard's name
        """A matrix of orthonormal columns."""
        ...

    @property
    def R(self) -> Array:  # noqa: N802 - the standard's name
        """An upper triangle."""
        ...


class LinearAlgebra(Protocol):
    """The extension ``linalg`` of a namespace; what is not declared here is a function that returns one array."""

    def eigh(self, x: Array, /) -> tuple[Array, Array]: ...
    def qr(self, x: Array, /, *, mode: str = "reduced") -> OrthogonalFactors: ...
    def svd(self, x: Array, /, *, full_matrices: bool = True) -> tuple[Array, Array, Array]: ...
    def __getattr__(self, name: str, /) -> Callable[..., Array]: ...


class Namespace(Protocol):
    """A module of the Python Array API, as ``array_api_compat.array_namespace`` returns it.

    What is not declared here is a function that returns one array.
    """

    __name__: str
    inf: float
    nan: float
    bool: Any
    int32: Any
    int64: Any
    float32: Any
    float64: Any
    linalg: LinearAlgebra

    def finfo(self, dtype: Any, /) -> Any: ...
    def isdtype(self, dtype: Any, kind: Any, /) -> builtins.bool: ...
    def result_type(self, *arrays_and_dtypes: Any) -> Any: ...
    def __array_namespace_info__(self) -> Any: ...
    def __getattr__(self, name: str, /) -> Callable[..., Array]: ...


Matrix: TypeAlias = Any
"""X: a dense array, or a sparse matrix of SciPy or CuPy in CSR format, which have few members in common."""

HostArray: TypeAlias = Any
"""An array of NumPy, whose own methods are called.

What is made by NumPy and given to a function that takes an `Array` is annotated with this type: pyright does
not take NumPy's overloaded operators for those of the protocol.
"""

NativeArray: TypeAlias = Any
"""An array whose library is known where it is used, so that its own methods are called.

Losses, penalties and rates that users write take and return such arrays: they may annotate them as those of their
library.
"""

R = TypeVar("R")

Scalar: TypeAlias = Any
"""A number for each problem that decisions are made on: a Python float or bool, or an array of the batch's shape."""

Tree: TypeAlias = Any
"""A dict, list, tuple or NamedTuple of arrays, nested as one likes; a single array is a tree too."""


class NotApplicable(Exception):  # noqa: N818 - a signal from one solver to the next, not a user's error
    """A solver cannot serve a problem; its row in ``agd.run.SOLVERS`` names the one that follows."""


class Params(NamedTuple):
    """What a linear model is made of: z = X @ coef + intercept.

    Attributes
    ----------
    coef : array, shape (..., p) or (..., k, p)
        One coefficient for each column of X; leading axes are independent problems. Of a loss that
        declares k outputs, one row for each of these.
    intercept : array, shape (...) or (..., k), or None
        The constant term; None for a model without one. It is never a column of X.
    """

    coef: Array
    intercept: Array | None


@dataclass(frozen=True)
class BatchColumn:
    """What stands for y, or for the weights, of rows that come in batches.

    Attributes
    ----------
    shape : tuple
        The number of targets, if there are several, and the number of rows, which is not known.
    dtype : dtype
        The dtype of the entries.
    labels : tuple of float, or None
        The labels of the classes, ascending, each of which is read as its position; None reads the values
        as they are.
    subtracts_offset : bool
        Whether the targets of rows with offsets are read less these.
    class_factors : tuple of float, or None
        Of a column of weights: what the weight of a row is multiplied by, for each class that y may have.
    """

    shape: tuple[Any, ...]
    dtype: Any
    labels: tuple[float, ...] | None = None
    subtracts_offset: bool = False
    class_factors: tuple[float, ...] | None = None

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def encoded(self, labels: tuple[float, ...]) -> BatchColumn:
        """Return the column with each of these labels read as its position."""
        return replace(self, labels=labels)

    def by_class(self, factors: tuple[float, ...]) -> BatchColumn:
        """Return the column of weights times the factors of the classes."""
        return replace(self, class_factors=factors)

    def less_offset(self, dtype: Any) -> BatchColumn:
        """Return the column of the targets less their offsets, which are of this dtype."""
        return replace(self, dtype=dtype, subtracts_offset=True)


class Batches:
    """Rows in batches, whose number is not known: the base class of `agd.Stream`.

    Iteration yields tuples (X, y, weight) of arrays of one library.

    Attributes
    ----------
    resident : array, shape (0, p)
        An array of the batches' library, device and dtype.
    y, weight : BatchColumn
        What stands for the targets and the weights; `weight` is None where there are none.
    """

    resident: Array
    y: BatchColumn
    weight: BatchColumn | None

    @property
    def shape(self) -> tuple[float, int]:
        """The number of rows, NaN since it is not known, and the number of columns."""
        return math.nan, int(self.resident.shape[-1])

    @property
    def ndim(self) -> int:
        """The number of axes: rows and columns."""
        return 2

    @property
    def dtype(self) -> Any:
        """The dtype of the batches."""
        return self.resident.dtype

    def __iter__(self) -> Iterator[tuple[Matrix, Array, Array | None]]:
        raise NotImplementedError


class Data(Protocol):
    """X, y and the weights of the rows, as blocks of rows that functions are mapped over.

    ``agd.data.as_data`` makes one of what a user gives; ``agd.data.BaseData`` has the defaults. The traits are all
    that the choice of a solver asks of the data.
    """

    @property
    def X(self) -> Matrix:  # noqa: N802 - the name of the matrix
        """The rows, shape (..., n, p)."""
        ...

    @property
    def y(self) -> Array:
        """The targets, shape (..., n)."""
        ...

    @property
    def weight(self) -> Array | None:
        """The weights of the rows, shape (n,) or (..., n); None where all are 1."""
        ...

    @property
    def total(self) -> Array:
        """The number of rows, or the sum of their weights: what a mean over rows divides by."""
        ...

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of X; NaN stands for an unknown number of rows."""
        ...

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the batch of independent problems: () for one problem."""
        ...

    @property
    def resident(self) -> Array:
        """An array of the kind that holds w."""
        ...

    @property
    def lazy(self) -> bool:
        """Whether each pass reads or computes the rows anew, which makes a pass dear."""
        ...

    @property
    def sparse(self) -> bool:
        """Whether X is a sparse matrix, which is never made dense."""
        ...

    @property
    def row_count(self) -> float:
        """The number of rows; infinite where only a pass over lazy data can tell."""
        ...

    @property
    def entries(self) -> float:
        """The number of stored entries of X: of a sparse matrix its nonzeros."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Unpack into X, y and the weights."""
        ...

    def replace(self, **changes: Any) -> Self:
        """Return the same kind of data with other arrays in the same roles."""
        ...

    def map(self, f: Callable[..., Tree], limit: int | None = None) -> list[Tree]:
        """Return f(X, y, weight) of every block, in the order of the rows: one pass."""
        ...

    def sum(self, f: Callable[..., Tree], limit: int | None = None) -> Tree:
        """Add up f(X, y, weight) over the blocks, leaf by leaf: one pass."""
        ...

    def reduce(
        self, f: Callable[..., Tree], merge: Callable[[list[Tree]], Tree], *, small: bool = False
    ) -> Tree:
        """Merge f(X, y, weight) over the blocks, where these are and in a tree: one pass."""
        ...

    def take(self, rows: Array) -> Self:
        """Return the data of these rows, which have to be in memory."""
        ...

    def merge_chunks(self, f: Callable[[Any], R], merge: Callable[[list[R]], R]) -> R:
        """Merge f(chunk) over the chunks, each as data in memory: one pass; data in memory are one chunk."""
        ...

    def targets_only(self) -> Data:
        """Return y and the weights beside an X without columns, where a pass over them alone is cheaper."""
        ...

    def encode_labels(self, labels: tuple[float, ...]) -> Self:
        """Return the data with each label in y replaced by its position among the ascending `labels`."""
        ...

    def halve_blocks(self) -> bool:
        """Let blocks have half the rows that they have now; return whether they had more than a few."""
        ...

    def single_threaded_blas(self) -> AbstractContextManager[None]:
        """Return a context in which BLAS has no threads of its own, where other threads share the blocks."""
        ...


class Loss(Protocol):
    """A pointwise loss l(z, y) of the linear predictor z = X @ w + b and the target y.

    z has the shape of y (..., n), or, for a loss that declares k outputs, (..., n, k); the gradient has that
    of z, and the value that of y. ``agd.loss.BaseLoss`` derives all of it from `value` and `gradient`.
    """

    @property
    def name(self) -> str:
        """The loss's name as scikit-learn spells it."""
        ...

    @property
    def curvature_bound(self) -> float | None:
        """A bound on the second derivative in z, or None where there is none."""
        ...

    @property
    def classes(self) -> float | None:
        """How many classes y has, which it then numbers from 0; None for a numeric target.

        It is infinite where only the labels can tell; `with_classes` is then told their number.
        """
        ...

    @property
    def outputs(self) -> float | None:
        """How many outputs z has on its last axis; None where z has the shape of y.

        It is infinite where the number of classes is not known yet.
        """
        ...

    @property
    def shift_invariant(self) -> bool:
        """Whether a constant added to all outputs of z leaves the loss as it is."""
        ...

    @property
    def has_recession_direction(self) -> bool:
        """Whether, for some y, l decreases for ever as z grows, so that a fit may have no minimum."""
        ...

    @property
    def user_defined(self) -> bool:
        """Whether the loss is a user's own, of which no test has held the gradient to the value."""
        ...

    @property
    def domain(self) -> str:
        """What y may be, in words."""
        ...

    @property
    def quadratic(self) -> bool:
        """Whether l(z, y) = (z - y)² / 2, so that second moments of the data are all that a fit needs."""
        ...

    @property
    def smooth(self) -> bool:
        """Whether `gradient` is continuous in z; else the loss has a `prox`."""
        ...

    @property
    def piecewise_linear(self) -> bool:
        """Whether l is linear in z between kinks, which `kinks` tells."""
        ...

    def kinks(self, y: NativeArray) -> list[tuple[NativeArray, Any, Any]]:
        """Return where the kinks of a piecewise linear loss are, and the slopes to either side that each adds."""
        ...

    @property
    def convex(self) -> bool:
        """Whether l is convex in z for every y, so that a fit has one minimum."""
        ...

    @property
    def starting_loss(self) -> Loss | None:
        """For a loss that is not convex, a convex one from whose minimum a fit begins."""
        ...

    @property
    def has_deviance(self) -> bool:
        """Whether twice the excess of l over `least_value` is the deviance of a distribution."""
        ...

    @property
    def residual(self) -> bool:
        """Whether l is a function of z - y alone, so that an offset of z is subtracted from y."""
        ...

    @property
    def log_link(self) -> bool:
        """Whether `link` is the logarithm, so that the mean is proportional to an exposure."""
        ...

    @property
    def has_offset(self) -> bool:
        """Whether y is a pair of target and offset, as of `agd.loss.base.OffsetLoss`."""
        ...

    @property
    def estimates_scale(self) -> bool:
        """Whether a fit estimates the spread of the residuals, of which `with_scale` makes the loss."""
        ...

    def with_scale(self, scale: float) -> Loss:
        """Return the loss for residuals of this spread."""
        ...

    @property
    def positive_predictor(self) -> bool:
        """Whether l is infinite where z is not above 0."""
        ...

    @property
    def counts(self) -> bool:
        """Whether y is given as pairs of counts, successes and failures."""
        ...

    @property
    def fixed_dispersion(self) -> bool:
        """Whether the variance of that distribution follows from its mean."""
        ...

    def least_value(self, y: NativeArray) -> NativeArray:
        """Return the minimum of l(z, y) over z, element by element."""
        ...

    def saturated_log_likelihood(self, y: NativeArray, precision: NativeArray) -> NativeArray:
        """Return the log density of y where z fits it exactly; precision is weight over dispersion."""
        ...

    def prox(self, z: NativeArray, y: NativeArray, step: float) -> NativeArray:
        """Return argmin_u l(u, y) + (u - z)² / (2 step), element by element."""
        ...

    def value(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return l(z, y), element by element."""
        ...

    def gradient(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return dl/dz, element by element."""
        ...

    def hessian(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return d²l/dz², element by element."""
        ...

    def value_and_gradient(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return l(z, y) and dl/dz, from one computation of what they have in common."""
        ...

    def value_gradient_and_hessian(
        self, z: NativeArray, y: NativeArray
    ) -> tuple[NativeArray, NativeArray, NativeArray]:
        """Return l(z, y), dl/dz and d²l/dz², from one computation of what they have in common."""
        ...

    def sum_and_gradient(self, z: NativeArray, y: NativeArray) -> tuple[NativeArray, NativeArray]:
        """Return the sum of l(z, y) over the last axis, the rows, and dl/dz of each row."""
        ...

    def link(self, mean: NativeArray) -> NativeArray:
        """Return the constant z whose prediction is `mean`."""
        ...

    def inverse_link(self, z: NativeArray) -> NativeArray:
        """Return the mean of y that z stands for; the inverse of `link`."""
        ...

    def predict(self, z: NativeArray) -> NativeArray:
        """Return the prediction that z stands for."""
        ...

    def null_model(self, mean: NativeArray) -> NativeArray:
        """Return the constant z that fits targets of this mean best; 0 where no finite one does."""
        ...

    def statistic(self, y: NativeArray) -> NativeArray:
        """Return T(y), shaped like z: the best constant model depends on y through the mean of T(y) alone."""
        ...

    def with_classes(self, count: int) -> Loss:
        """Return the loss for y of this many classes."""
        ...

    def class_shares(self, mean: NativeArray) -> NativeArray:
        """Return the share of the rows in each class, shape (..., classes), for a mean of `statistic`."""
        ...

    def likeliest_class(self, z: NativeArray) -> NativeArray:
        """Return the number of the likeliest class, in the dtype of z, shape (..., n)."""
        ...

    def class_probabilities(self, z: NativeArray) -> NativeArray:
        """Return the probability of each class, shape (..., n, classes)."""
        ...

    def outside(self, y: NativeArray) -> NativeArray:
        """Return where y is no target that this loss can have."""
        ...

    @property
    def curvature(self) -> float | None:
        """The earlier name of `curvature_bound`."""
        ...

    def slope(self, z: NativeArray, y: NativeArray) -> NativeArray:
        """Return dl/dz: the earlier name of `gradient`."""
        ...


class Penalty(Protocol):
    """A term added to the mean loss; it sees the coefficients, never the intercept.

    A smooth penalty joins the gradient; one that is not (`smooth` false) is left to its `prox`.
    ``agd.loss.BasePenalty`` has a default for all but `value`.
    """

    @property
    def smooth(self) -> bool:
        """Whether `gradient` exists everywhere."""
        ...

    @property
    def separable(self) -> bool:
        """Whether it is a sum over the coefficients, so that `prox` acts entry by entry."""
        ...

    @property
    def quadratic(self) -> bool:
        """Whether value(w) = curvature_bound / 2 Σ w²."""
        ...

    @property
    def couples_targets(self) -> bool:
        """Whether it couples the coefficients of several targets, as a norm of a matrix does."""
        ...

    @property
    def convex(self) -> bool:
        """Whether it is a convex function."""
        ...

    @property
    def prox_on_host(self) -> bool:
        """Whether the prox is computed on the host from values that it reads."""
        ...

    def starting_penalty(self) -> Any:
        """Return a convex penalty from whose minimum a fit begins."""
        ...

    def linearised(self, w: Any) -> Any:
        """Return a convex penalty that touches this one at w and is nowhere lower but for a constant."""
        ...

    @property
    def elastic_parts(self) -> tuple[Any, Any] | None:
        """The strengths a and r of a penalty that is Σ a |w| + Σ r w² / 2, as host numbers; None for any other."""
        ...

    def strengthened(self, factor: float) -> Any:
        """Return the penalty with its strength multiplied by a factor."""
        ...

    def of_columns(self, columns: Any) -> Any:
        """Return the penalty of some of the coefficients alone."""
        ...

    def of_scaled(self, scale: Any) -> Any:
        """Return the penalty of scale * w, as one of w; scale is a host array, one for each coefficient."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """What the penalty holds, by name: its strength, its bounds."""
        ...

    @property
    def curvature_bound(self) -> float | None:
        """The largest second derivative; None for a penalty that is not smooth."""
        ...

    def value(self, w: NativeArray) -> NativeArray:
        """Return the penalty of w (..., p), shape (...); of a norm of matrices w is (..., p, q)."""
        ...

    def gradient(self, w: NativeArray) -> NativeArray:
        """Return its gradient, shape (..., p); raise where the penalty is not smooth."""
        ...

    def prox(self, w: NativeArray, step: float | NativeArray) -> NativeArray:
        """Return argmin_u value(u) + |u - w|² / (2 step), shape (..., p).

        `step` broadcasts against w. A separable penalty takes a step for each coefficient, any other
        one that is the same for all that it couples.
        """
        ...

    @property
    def curvature(self) -> float | None:
        """The earlier name of `curvature_bound`."""
        ...

    def grad(self, w: NativeArray) -> NativeArray:
        """Return its gradient: the earlier name of `gradient`."""
        ...


@runtime_checkable
class Objective(Protocol):
    """A function of a tree of arrays, with its gradient: the least that ``agd.run.run`` minimises.

    ``agd.gradient.BaseObjective`` has a default for all else that a solver or the loop may ask of an
    objective: a prox, bounds, coordinates, rows to draw, whether a step can be compiled.
    """

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the value: () for one problem, (b, ...) for independent ones."""
        ...

    def value_and_grad(self, params: Tree, /) -> tuple[Array, Tree]:
        """Return the value, shape `batch_shape`, and the gradient, in the structure of `params`."""
        ...

    def grad_norm(self, grads: Tree, params: Tree, /) -> Array:
        """Return how far the params are from stationary, shape `batch_shape`.

        That is the size of the gradient there, as the stopping test measures it; where a penalty or a
        bound has a prox, the size of params - prox(params - grads).
        """
        ...

    def arrays(self) -> Tree:
        """Return the arrays that the objective holds: what a compiled step takes."""
        ...

    def with_arrays(self, arrays: Tree) -> Objective:
        """Return the same objective over other arrays."""
        ...


class Progress(NamedTuple):
    """What the loop reads of a solver's state, whatever the solver.

    Every field is an array of the batch's shape, or None where the solver does not know it or where it
    cannot happen: then nothing is computed for it and nothing is read.

    Attributes
    ----------
    iterations : array, optional
        Accepted steps; None where every step is accepted.
    evaluations : array, optional
        Values and gradients that were computed; None where every step computes as many.
    stalled : array of bool, optional
        Whether no step of the solver's changes the point any more, as where a line search ends without one.
    hit_nonfinite : array of bool, optional
        Whether a trial since the last accepted step had a value or a gradient that is not finite.
    may_be_saddle : array of bool, optional
        Whether a small gradient may still be that of a saddle, so that the run must not call it converged.
    curvature, least_curvature : array, optional
        The largest and the smallest curvature that the solver knows of; 0 for unknown.
    relative_step : array, optional
        The largest change of a parameter in the last accepted step, as a share of the largest parameter;
        None leaves it to the loop to compare the points.
    """

    iterations: Any = None
    evaluations: Any = None
    stalled: Any = None
    hit_nonfinite: Any = None
    may_be_saddle: Any = None
    curvature: Any = None
    least_curvature: Any = None
    relative_step: Any = None

    def without_flags(self) -> Progress:
        """Return the same counts, neither stalled nor at values that are not finite: for a new objective."""
        stalled, nonfinite = self.stalled, self.hit_nonfinite
        return self._replace(
            stalled=None if stalled is None else stalled ^ stalled,
            hit_nonfinite=None if nonfinite is None else nonfinite ^ nonfinite,
        )


@runtime_checkable
class State(Protocol):
    """What a solver carries from step to step: a NamedTuple of arrays with at least these fields."""

    @property
    def value(self) -> Array:
        """The objective at the params, shape (...)."""
        ...

    @property
    def grad(self) -> Tree:
        """Its gradient there, in the structure of the params."""
        ...

    @property
    def progress(self) -> Progress:
        """What the loop reads."""
        ...


def get_progress(state: Any) -> Progress:
    """Return a state's progress; an empty one for a user's own solver whose state has only value and grad."""
    return state.progress if isinstance(state, State) else Progress()


@runtime_checkable
class Stepper(Protocol):
    """The least that a user's own method has; ``agd.update.solver.as_solver`` completes it."""

    def init(self, objective: Any, params: Tree) -> Any:
        """Return the state at the first point."""
        ...

    def step(self, objective: Any, params: Tree, state: Any) -> tuple[Tree, Any]:
        """Return the next point and the state there."""
        ...


class Method(Protocol):
    """One step at a time on an objective; the state carries `value` and `grad` at the params."""

    @property
    def name(self) -> str:
        """What a result calls the method."""
        ...

    @property
    def evaluations(self) -> int:
        """How many values and gradients one step evaluates."""
        ...

    def init(self, objective: Any, params: Tree) -> Any:
        """Return the state at the first point."""
        ...

    def step(self, objective: Any, params: Tree, state: Any) -> tuple[Tree, Any]:
        """Return the next point and the state there."""
        ...


class StepState(NamedTuple):
    """What the loop hands from step to step; every field stays where the arrays are."""

    params: Tree
    state: Any
    active: Array
    count: Any  # an array; its name is that of a method of tuples
