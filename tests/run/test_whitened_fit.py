"""`agd.fit` in whitened coordinates: certified and exact answers, rank, condition, and its parts."""

from __future__ import annotations

import math
import re
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import agd
from agd import Status, Stop
from agd.loss import L2
from helpers.ridge_reference import correlated_rows, ridge_solution

NIST = Path(__file__).parents[1] / "reference_data" / "nist"
RankWarning = np.exceptions.RankWarning


def certified(name):
    """Return the certified coefficients of a StRD set, and its rows."""
    lines = (NIST / f"{name}.dat").read_text().splitlines()
    text = "\n".join(lines)

    def part(title):
        first, last = re.search(title + r"\s+\(lines (\d+) to (\d+)\)", text).groups()
        return lines[int(first) - 1 : int(last)]

    found = [line.split() for line in part("Certified Values")]
    known = [float(row[1]) for row in found if row and re.fullmatch(r"B\d+", row[0])]
    rows = np.array([line.split() for line in part("Data") if line.strip()], dtype=float)
    return np.array(known), rows[:, 0], rows[:, 1:]


def powers(x, degree):
    return np.vander(x, degree + 1, increasing=True)[:, 1:]


def digits(found, known):
    """Return the fewest digits that agree."""
    pairs = zip(found, known, strict=True)
    errors = [abs(f - k) / abs(k) for f, k in pairs if f != k]
    return -math.log10(max(errors)) if errors else math.inf


def exact(X, y):
    """Solve the normal equations of rows that begin with 1 in fractions."""
    X = [[Fraction(v) for v in row] for row in X]
    n = len(X[0])
    A = [[sum(row[i] * row[j] for row in X) for j in range(n)] for i in range(n)]
    c = [sum(row[i] * Fraction(t) for row, t in zip(X, y, strict=True)) for i in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            share = A[j][i] / A[i][i]
            A[j] = [a - share * b for a, b in zip(A[j], A[i], strict=True)]
            c[j] -= share * c[i]
    w = [Fraction(0)] * n
    for i in reversed(range(n)):
        w[i] = (c[i] - sum(A[i][j] * w[j] for j in range(i + 1, n))) / A[i][i]
    return [float(v) for v in w]


# The last digit of Norris hangs on which kernels of BLAS the processor gets: 12.5 to more than 13.
@pytest.mark.parametrize(
    ("name", "degree", "least"),
    [("Longley", 1, 11), ("Norris", 1, 12), ("NoInt1", 0, 14), ("Wampler1", 5, 14), ("Wampler4", 5, 12)],
)  # fmt: skip
def test_certified_answers(name, degree, least):
    known, y, X = certified(name)
    found = agd.fit(powers(X[:, 0], degree) if degree > 1 else X, y, intercept=degree > 0)
    assert found.status is Status.CONVERGED
    got = found.coef if degree == 0 else [found.intercept, *found.coef]
    assert digits(got, known) >= least


def filip_like(noise, seed=3):
    """Return x and y of decimals, such as the measurements to which a polynomial of degree 10 is fitted."""
    rng = np.random.default_rng(seed)
    x = np.round(np.sort(rng.uniform(-8.8, -3.1, 82)), 9)
    return x, np.round(0.8 + 0.05 * np.sin(3.0 * x) + noise * rng.normal(size=82), 4)


@pytest.mark.parametrize("noise", [0.0, 3e-3])
def test_a_polynomial_of_degree_ten_has_seven_digits(noise):
    x, y = filip_like(noise)
    rows = [[Fraction(str(v)) ** k for k in range(11)] for v in x]
    known = exact(rows, [Fraction(str(v)) for v in y])
    found = agd.fit(powers(x, 10), y)
    assert found.status is Status.CONVERGED
    assert "condition number 4" in found.message
    assert found.certificate.condition == pytest.approx(
        np.linalg.cond(scaled(powers(x, 10))) ** 2, rel=0.1
    )
    assert (
        digits([found.intercept, *found.coef], known) >= 7
    )  # from X as it was rounded: the most that is there
    held = exact([[1, *row] for row in powers(x, 10)], y)
    assert digits([found.intercept, *found.coef], held) >= 12


def scaled(X):
    Z = X - X.mean(axis=0)
    return Z / np.linalg.norm(Z, axis=0)


def test_a_polynomial_that_fits_exactly_ends():
    x, _ = filip_like(0.0)
    X = powers(x, 10)
    y = X @ np.ones(10)
    found = agd.fit(X, y)
    assert found.status is Status.CONVERGED
    assert found.nit <= 3
    np.testing.assert_allclose(found.predict(X), y, atol=1e-14 * np.abs(y).max())


def test_what_rounding_allows_is_the_end():
    X, y = correlated_rows()
    with pytest.warns(agd.ConvergenceWarning, match="precision of the arithmetic is reached"):
        found = agd.fit(X, y, stop=Stop(grad_tol=1e-300))
    assert found.status is Status.LINE_SEARCH
    assert found.nit <= 10
    np.testing.assert_allclose(found.coef, ridge_solution(X, y)[0], rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_exact_answer_on_every_library(xp, alpha):
    X, y = correlated_rows()
    weight = np.random.default_rng(1).uniform(0.5, 2.0, 60)
    penalty = L2(alpha) if alpha else None
    found = agd.fit(xp.asarray(X), xp.asarray(y), penalty=penalty, sample_weight=xp.asarray(weight))
    single = "float32" in str(xp.dtype)
    assert found.method.startswith("descent in whitened coordinates")
    assert found.success
    assert found.nfev <= 4
    w, b = ridge_solution(X, y, weight, alpha)
    np.testing.assert_allclose(xp.to_numpy(found.coef), w, rtol=2e-3 if single else 1e-11)
    assert float(xp.to_numpy(found.intercept)) == pytest.approx(b, rel=1e-2 if single else 1e-9)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shape", ["shared", "batch"])
def test_many_problems_are_as_one_by_one(shape, intercept):
    X, y = correlated_rows()
    if shape == "shared":
        Y = np.column_stack([y, -2.0 * y + 1.0, y**2])
        several = agd.fit(X, Y, intercept=intercept)
        ones = [agd.fit(X, column, intercept=intercept) for column in Y.T]
    else:
        Xs, ys = np.stack([X, X[:, ::-1], X**2]), np.stack([y, y + 1.0, y**2])
        several = agd.fit(Xs, ys, intercept=intercept)
        ones = [agd.fit(A, t, intercept=intercept) for A, t in zip(Xs, ys, strict=True)]
    assert several.success.all()
    for coef, one in zip(several.coef, ones, strict=True):
        np.testing.assert_allclose(coef, one.coef, rtol=1e-9)


@pytest.mark.parametrize("intercept", [True, False])
def test_dependent_columns_have_the_shortest_answer(intercept):
    X, y = correlated_rows()
    A = np.column_stack([X, X @ [1.0, 2.0, 0.0, -1.0], 100.0 * X[:, 1]])
    with pytest.warns(RankWarning, match="these are the shortest"):
        found = agd.fit(A, y, intercept=intercept)
    Z, t = (A - A.mean(axis=0), y - y.mean()) if intercept else (A, y)
    np.testing.assert_allclose(found.coef, np.linalg.lstsq(Z, t)[0], rtol=1e-7, atol=1e-9)
    assert found.certificate.condition == math.inf
    assert agd.fit(A, y, penalty=L2(0.1)).success  # a ridge leaves one answer


def test_zero_columns_are_no_reason_to_go_slow():
    X, y = correlated_rows()
    with pytest.warns(RankWarning, match="rank is 5 of 6"):
        found = agd.fit(np.column_stack([X, np.zeros(60)]), y)
    assert found.method == "descent in whitened coordinates"
    np.testing.assert_allclose(found.coef, [*ridge_solution(X, y)[0], 0.0], rtol=1e-10)


def test_the_distance_is_a_bound():
    X, y = correlated_rows()
    exact_w, exact_b = ridge_solution(X, y)
    rough = agd.fit(X, y, stop=Stop(grad_tol=1e9))
    assert rough.nit == 0
    off = math.hypot(np.linalg.norm(rough.coef - exact_w), rough.intercept - exact_b)
    assert off <= rough.certificate.distance
    best = agd.fit(X, y)
    assert 0.0 < best.certificate.distance < 1e-4
    assert best.certificate.source == "Hessian"


def test_other_losses_take_few_evaluations_on_columns_as_they_are():
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_breast_cancer(return_X_y=True)
    stop = Stop(grad_tol=1e-6)
    found = agd.fit(X, y, loss="log_loss", penalty=L2(1e-3), stop=stop)
    assert found.success
    assert np.abs(found.jac.coef).max() <= 1e-6
    assert found.nfev <= 12
    assert found.method == "Newton"


@pytest.mark.parametrize("loss", ["huber", "log_loss", "poisson"])
def test_badly_conditioned_columns_are_named_for_any_loss(loss):
    X, y = correlated_rows()
    labels = {"huber": y, "log_loss": (y > np.median(y)) * 1.0, "poisson": np.abs(np.round(y))}[
        loss
    ]
    near = np.column_stack([X, X[:, 0] * (1.0 + 1e-12 * y)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", agd.ConvergenceWarning)
        found = agd.fit(near, labels, loss=loss, penalty=L2(1e-24), stop=Stop(max_iter=50))
    named = re.search("condition number ([^:]+):", found.message)
    assert named
    assert float(named[1]) > 1e7


@pytest.mark.backend("numpy")
@pytest.mark.parametrize("seed", [27, 30, 43, 53, 73, 78, 79, 84, 98, 102])
def test_a_column_that_is_a_multiple_of_another_is_found_wherever_it_lies(seed):
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(50, 6000)), int(rng.integers(2, 12))
    X = rng.normal(size=(n, p)) * 10 ** rng.uniform(-3, 3, size=p)
    X = X + rng.normal(size=p) * rng.integers(0, 3) * 10.0
    X[:, -1] = X[:, 0] * rng.choice([1.0, 2.0, -3.3])
    y = X @ np.arange(p) + rng.normal(size=n)
    with pytest.warns(np.exceptions.RankWarning, match=f"rank is {p} of {p + 1}"):
        found = agd.fit(X, y)
    design = X - X.mean(axis=0)
    known = np.linalg.lstsq(design, y - y.mean(), rcond=1e-9)[0]
    assert np.allclose(design @ found.coef, design @ known, rtol=1e-6, atol=1e-6 * np.std(y))
    assert np.allclose(found.coef[-1] / found.coef[0], X[0, -1] / X[0, 0], rtol=1e-6)
