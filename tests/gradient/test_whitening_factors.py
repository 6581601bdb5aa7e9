"""The parts of a whitened fit: doubled arithmetic, the factor by blocks, and the coordinates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from agd import backends
from agd._typing import Params
from agd.gradient import Blocks, LinearObjective, Moments
from agd.gradient import qr as doubled
from agd.gradient.column_stats import column_scaling
from agd.gradient.preconditioner import whitening_from_factor, whitening_from_moments
from agd.gradient.qr import compensated_gradient, triangular_factor
from agd.loss import L2
from helpers.ridge_reference import correlated_rows, ridge_solution


def test_doubled_arithmetic_is_exact():
    rng = np.random.default_rng(0)
    a = rng.normal(size=200) * 10.0 ** rng.integers(-20, 20, 200)
    b = rng.normal(size=200) * 10.0 ** rng.integers(-20, 20, 200)
    for name, of in (("two_sum", lambda x, y: x + y), ("two_product", lambda x, y: x * y)):
        high, low = getattr(doubled, name)(a, b)
        for x, y, h, rest in zip(a, b, high, low, strict=True):
            assert Fraction(float(h)) + Fraction(float(rest)) == of(
                Fraction(float(x)), Fraction(float(y))
            )
    for n in (1, 2, 7, 200):
        high, low = doubled.sum_pairs((a[:n], np.zeros(n)))
        total = sum(Fraction(float(x)) for x in a[:n])
        peak = sum(abs(Fraction(float(x))) for x in a[:n])
        assert (
            abs(Fraction(float(high)) + Fraction(float(low)) - total) <= Fraction(1, 2**98) * peak
        )


def test_the_gradient_in_twice_the_precision(xp):
    X, y = correlated_rows(n=50)
    A, t = xp.asarray(X), xp.asarray(y)
    w = xp.asarray(ridge_solution(X, y)[0])
    b = xp.asarray(np.asarray(1.25))
    shift = xp.asarray(X.mean(axis=0))
    blocks = Blocks.of(A, t, xp.asarray(np.linspace(0.5, 2.0, 50)), rows=7)
    with backends.device_context(A):
        value, grad = compensated_gradient(blocks, shift, Params(w, b))
    rows = [[Fraction(float(v)) for v in row] for row in xp.to_numpy(A)]
    s = [Fraction(float(v)) for v in xp.to_numpy(xp.asarray(np.linspace(0.5, 2.0, 50)))]
    coef = [Fraction(float(v)) for v in xp.to_numpy(w)]
    mean = [Fraction(float(v)) for v in xp.to_numpy(shift)]
    ts = [Fraction(float(v)) for v in xp.to_numpy(t)]
    r = [
        sum(x * c for x, c in zip(row, coef, strict=True)) + Fraction(5, 4) - goal
        for row, goal in zip(rows, ts, strict=True)
    ]
    by_hand = [
        float(
            sum(k * e * (row[j] - mean[j]) for k, e, row in zip(s, r, rows, strict=True)) / sum(s)
        )
        for j in range(4)
    ]
    eps = float(np.finfo(xp.host_dtype).eps)
    np.testing.assert_allclose(xp.to_numpy(grad.coef), by_hand, rtol=8.0 * eps)
    total = float(sum(k * e for k, e in zip(s, r, strict=True)) / sum(s))
    assert float(xp.to_numpy(grad.intercept)) == pytest.approx(total, rel=8.0 * eps)
    square = float(sum(k * e * e for k, e in zip(s, r, strict=True)) / sum(s) / 2)
    assert float(xp.to_numpy(value)) == pytest.approx(square, rel=100.0 * eps)


def test_a_triangular_factor_by_blocks(xp):
    X, y = correlated_rows(n=50)
    m, D = X.mean(axis=0), 1.0 / X.std(axis=0)
    A = xp.asarray(X)

    def here(x):  # beside the data, and in memory where these are not
        return x if xp.name == "dask" else xp.asarray(x)

    with backends.device_context(A):
        R = xp.to_numpy(triangular_factor(Blocks.of(A, xp.asarray(y), rows=11), here(m), here(D)))
    Z = (X - m) * D
    np.testing.assert_allclose(R.T @ R, Z.T @ Z / 50, rtol=10.0 * xp.rtol, atol=10.0 * xp.rtol)
    assert np.abs(np.tril(R, -1)).max() <= 1e-6


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_both_ways_to_the_coordinates_agree(ridge):
    X, y = correlated_rows()
    base = LinearObjective.of(X, y, penalty=L2(ridge) if ridge else None)
    scaling = column_scaling(base)
    G = Moments.from_blocks(base.blocks).G
    one = whitening_from_moments(G, scaling, np.asarray(1.0), ridge)
    other, rank = whitening_from_factor(
        triangular_factor(base.blocks, scaling.mean, scaling.inv_std), scaling, ridge
    )
    assert int(rank) == 4
    np.testing.assert_allclose(one.spectrum, other.spectrum, rtol=1e-10)
    for found in (one, other):
        D = scaling.inv_std
        H = D[:, None] * (G + ridge * np.eye(4)) * D
        np.testing.assert_allclose(found.inv_sqrt.T @ H @ found.inv_sqrt, np.eye(4), atol=1e-10)
        np.testing.assert_allclose(found.sqrt.T @ found.inv_sqrt, np.eye(4), atol=1e-10)
        there = found.to_preconditioned(Params(np.arange(4.0), np.asarray(2.0)))
        back = found.to_original(there)
        np.testing.assert_allclose(back.coef, np.arange(4.0), atol=1e-10)
        assert float(back.intercept) == pytest.approx(2.0)
