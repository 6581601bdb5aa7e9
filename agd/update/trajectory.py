"""The whole run of a rule with constant step on the squared loss: any epoch at once, in closed form.

>>> import numpy as np
>>> from agd.gradient import Blocks, Moments
>>> from agd.update import Trajectory, gradient_descent
>>> X, y = np.asarray([[0.0], [1.0], [2.0]]), np.asarray([1.0, 3.0, 5.0])
>>> run = Trajectory.of(Moments.from_blocks(Blocks.of(X, y)), gradient_descent(0.1))
>>> run.at([0, 1, 10**9]).coef[:, 0].round(6)
array([0.      , 0.433333, 2.      ])
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Params, Penalty
from agd._validation import as_start, count
from agd.gradient.curvature import largest_curvature
from agd.gradient.moments import Moments, ridge
from agd.update._epochs import Path, evaluated, score
from agd.update._ours import compiled
from agd.update._powers import as_epochs, as_steps
from agd.update._quadratic import Quadratic, as_rate, check_finite, constant_rule, is_constant
from agd.update._rule import Rule
from agd.update._search import BestEpoch, smallest
from agd.update._seen import Through, corrected, seen
from agd.update._spectrum import Form, Spectrum, spectrum

__all__ = ["BestEpoch", "Path", "Trajectory"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    r"""Gradient descent, heavy ball or Nesterov's momentum on the squared loss, with or without `L2`.

    With t = (w, b), the loss is |A t - a|²/2 plus a constant, A of at most 2 p + 1 rows made from the
    moments. In the singular directions of A = U diag(s) V', ::

        t_k = t_0 - V diag((1 - q_k) / s) U'(A t_0 - a),    q_k = (1 - lr s²)^k

    for gradient descent; heavy ball and Nesterov have another polynomial q_k. These are the iterates of
    ``agd.fit`` with that rule, to rounding. One epoch costs what a billion do: O(p²), after O(p³) once.

    Directions in which A, so X, is singular to rounding stand still, as they do in the loop. From zero
    the limit is therefore the solution of least norm.

    Attributes
    ----------
    moments : Moments
        What the data left.
    form : Form
        The rule's beta, whether it looks ahead, whether there is an intercept, the penalty's alpha.
    parts : Spectrum
        The singular values and vectors, and where the run starts in them.
    rate : float or array, shape (...)
        The learning rate; where ``"auto"`` was asked for, the 1/L of ``agd.fit``.

    Notes
    -----
    A, and not its square, is decomposed: columns far from zero or of unlike size, which couple with the
    intercept, lose half the digits then that they lose in the Hessian. What G has lost of nearly
    dependent columns stays lost; reported losses carry an error of about eps yy.

    Goh (2017), "Why momentum really works", Distill; Ali, Kolter and Tibshirani (2019), "A
    continuous-time view of early stopping for least squares".

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import Blocks, Moments
    >>> from agd.update import Trajectory, momentum
    >>> X, y = np.asarray([[0.0], [1.0], [2.0]]), np.asarray([1.0, 3.0, 5.0])
    >>> run = Trajectory.of(Moments.from_blocks(Blocks.of(X, y)), momentum(0.1, beta=0.5))
    >>> path = run.at([1, 1000])
    >>> path.coef[:, 0].round(6), path.intercept.round(6)
    (array([0.433333, 2.      ]), array([0.3, 1. ]))
    """

    moments: Moments
    form: Form
    parts: Spectrum
    rate: Any

    @classmethod
    def of(
        cls,
        moments: Moments,
        rule: str | Rule = "gd",
        *,
        penalty: Penalty | None = None,
        intercept: bool = True,
        start: Any = None,
    ) -> "Trajectory":
        """Decompose the quadratic once.

        Parameters
        ----------
        moments : Moments
            Of the data. The host reads once, to see that they are finite.
        rule : str or Rule
            ``"gd"``, ``"momentum"``, ``"nesterov"`` or what these factories return, with a constant
            learning rate: a number, an array of one for each problem, or ``"auto"``.
        penalty : L2, optional
            What is added to the loss; it spares the intercept.
        intercept : bool
            Whether the model has a constant term.
        start : Params, tuple or array, optional
            The first point, (coef, intercept) or coef; 0 by default.

        Returns
        -------
        Trajectory
            The run.

        Raises
        ------
        ValueError
            For a rule that has no closed form here, a learning rate that is a schedule, moments that are
            not finite, and a start of another shape.
        TypeError
            For another penalty than `L2`.
        """
        rule = constant_rule(rule)
        known, alpha = dict(rule.hyperparameters), ridge(penalty)
        check_finite(moments)
        form = Form(float(known.get("beta", 0.0)), rule.name == "nesterov", intercept, alpha)
        quadratic = Quadratic(moments, form)
        zero = quadratic.zeros()
        first = as_start(start, zero, intercept) or zero
        rate = known["learning_rate"]
        if isinstance(rate, str):
            rate = 1.0 / largest_curvature(quadratic)
        with np.errstate(all="ignore"):
            parts = spectrum(moments, form, first, as_rate(rate, zero))
        return cls(moments, form, parts, rate)

    @staticmethod
    def knows(rule: Any) -> bool:
        """Return whether a rule has a closed form: one of three, with constant step and beta.

        Examples
        --------
        >>> from agd.update import Trajectory, adam, constant, gradient_descent
        >>> Trajectory.knows(gradient_descent()), Trajectory.knows(adam(0.1))
        (True, False)
        >>> Trajectory.knows(gradient_descent(constant(0.1)))  # a schedule may change
        False
        """
        return is_constant(rule)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The problems: () for one."""
        return self.moments.batch_shape

    def at(self, epochs: int | Sequence[int]) -> Path:
        """Return the run at some epochs, the same for every problem.

        Parameters
        ----------
        epochs : int or sequence of int, shape (K,)
            Steps taken, 0 or more, in any order.

        Returns
        -------
        Path
            coef (K, ..., p), intercept (K, ...), value (K, ...), grad and grad_norm (K, ...); without the
            first axis for a single epoch. What has diverged beyond the floats is infinite.

        Raises
        ------
        ValueError, TypeError
            For epochs that are negative or no whole numbers.
        """
        k = as_epochs(epochs)
        path: Path = self._evaluate(evaluated, k[(..., *(None,) * (len(self.batch_shape) + 1))])
        return path

    def at_each(self, epochs: Any) -> Path:
        """Return every problem at an epoch of its own, as in `at`; epochs are of shape (...)."""
        k = as_epochs(epochs)
        if k.shape != self.batch_shape:
            raise ValueError(f"epochs must have shape {self.batch_shape}, got {k.shape}")
        path: Path = self._evaluate(evaluated, k[..., None])
        return path

    def seen(self, function: Any, constant: Any, arrays: Any, epochs: Any) -> Any:
        """Return a pure function of the run at some epochs, compiled where the library compiles.

        Parameters
        ----------
        function, constant, arrays
            ``function(constant, arrays, path, moved)``, with a constant that can be hashed; `moved` is
            the largest change of a parameter in the last step, (K, ...).
        epochs : numpy.ndarray of int, shape (K, ...)
            Epochs for each problem, or (K, 1, ...).

        Returns
        -------
        tree of arrays
            What it returned.
        """
        k, backend = as_epochs(epochs)[..., None], backends.of(self.parts.s)
        with np.errstate(all="ignore"):
            steps, through = as_steps(k, self.parts.s), Through(self.form, function, constant)
            return compiled(backend, seen, through)(through, arrays, self.parts, steps)

    def corrected(self, epochs: Any, value: Array, grad: Params) -> "Trajectory":
        """Return the run without what the moments lost: with the loss and the gradient that the data have.

        Parameters
        ----------
        epochs : numpy.ndarray of int, shape (...)
            After how many steps of each problem they were evaluated.
        value, grad
            The loss there, shape (...), and its gradient.
        """
        steps = as_steps(as_epochs(epochs)[..., None], self.parts.s)
        with np.errstate(all="ignore"):
            return replace(self, parts=corrected(self.form, self.parts, steps, value, grad))

    def gcv(self, epochs: int | Sequence[int]) -> Array:
        r"""Return the generalised cross-validation score of stopping at some epochs.

        ::

            gcv_k = RSS_k / m / (1 - dof_k / m)²

        RSS/m is the mean squared residual, m the number of rows, and dof_k the trace of the matrix that
        takes y to its fit at epoch k: Σ (1 - q_k) over the directions, where there is no penalty. It
        estimates the mean squared error on new rows from those that were fitted.

        Parameters
        ----------
        epochs : int or sequence of int, shape (K,)
            As in `at`.

        Returns
        -------
        array, shape (K, ...)
            The score, in squared units of y; infinite where no degree of freedom is left, or the run has
            diverged.

        Notes
        -----
        Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for choosing a good
        ridge parameter", Technometrics 21; Yao, Rosasco and Caponnetto (2007), "On early stopping in
        gradient descent learning", Constructive Approximation 26.
        """
        k = as_epochs(epochs)
        found: Array = self._evaluate(score, k[(..., *(None,) * (len(self.batch_shape) + 1))])
        return found

    def best_epoch(self, limit: int = 10**9) -> BestEpoch:
        """Return the epoch with the smallest `gcv` from 0 to `limit`, for each problem.

        A grid of epochs evenly apart in their logarithms is scored, and then what lies about its best
        one, ever more finely, down to whole numbers.

        Parameters
        ----------
        limit : int
            The last epoch that is allowed.

        Returns
        -------
        BestEpoch
            The epoch, its score and the number of reads.

        Examples
        --------
        >>> import numpy as np
        >>> from agd.gradient import Blocks, Moments
        >>> from agd.update import Trajectory
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(30, 20)); y = X[:, 0] + rng.normal(size=30)
        >>> run = Trajectory.of(Moments.from_blocks(Blocks.of(X, y)))
        >>> best = run.best_epoch()
        >>> best.epoch == np.argmin(run.gcv(range(1000)))
        np.True_
        """
        kind = backends.namespace(self.parts.s).finfo(self.parts.s.dtype)

        def scored(epochs: Any) -> Any:
            return backends.to_numpy(self._evaluate(score, epochs[..., None])).astype(float)

        return smallest(scored, count("limit", limit), self.batch_shape, float(kind.eps))

    def _evaluate(self, function: Any, k: Any) -> Any:
        """Run a function of the spectrum and of k, compiled where the backend compiles."""
        row = backends.of(self.parts.s)
        with np.errstate(all="ignore"):  # what has diverged is infinite
            steps = as_steps(k, self.parts.s)
            return row.compile(function)(self.form, self.parts, steps)
