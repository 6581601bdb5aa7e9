"""`agd.least_squares` and `agd.curve_fit`: SciPy's answers, bounds, robust losses, batches, and honest failures."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

import agd
from helpers.array_libraries import Xp

optimize = pytest.importorskip("scipy.optimize")

T = np.linspace(0.0, 3.0, 20)
DECAY = 2.5 * np.exp(-1.3 * T) + 0.4 + 0.02 * np.sin(37.0 * T)


def decay(t: Any, height: Any, rate: Any, level: Any) -> Any:
    xp = agd.backends.namespace(height)
    return height * xp.exp(-rate * t) + level


def decay_residuals(x: Any, t: Any, y: Any) -> Any:
    return decay(t, x[0], x[1], x[2]) - y


def single(xp: Xp) -> bool:
    return xp.rtol > 1e-10


# -- One problem -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jac", [None, "2-point", "3-point"])
def test_fields_are_those_of_scipy(xp: Xp, jac: str | None) -> None:
    start = xp.asarray([1.0, 1.0, 0.0])
    args = (xp.asarray(T), xp.asarray(DECAY))
    result = agd.least_squares(decay_residuals, start, args, jac=jac)
    peer = optimize.least_squares(
        decay_residuals, [1.0, 1.0, 0.0], args=(T, DECAY), xtol=1e-14, ftol=1e-14, gtol=1e-14
    )
    rtol = 2e-3 if single(xp) else 1e-6
    assert result.success
    np.testing.assert_allclose(xp.to_numpy(result.x), peer.x, rtol=rtol)
    np.testing.assert_allclose(result.cost, peer.cost, rtol=rtol)
    np.testing.assert_allclose(xp.to_numpy(result.fun), peer.fun, atol=rtol)
    np.testing.assert_allclose(xp.to_numpy(result.jac), peer.jac, rtol=rtol, atol=rtol)
    assert np.abs(xp.to_numpy(result.grad)).max() < (1e-3 if single(xp) else 1e-6)
    assert not xp.to_numpy(result.active_mask).any()
    assert result.x.dtype == start.dtype


def test_a_users_jacobian_serves_and_a_wrong_one_is_never_called_converged() -> None:
    def jac(x: Any, t: Any, y: Any) -> Any:
        e = np.exp(-x[1] * t)
        return np.stack([e, -x[0] * t * e, np.ones_like(t)], axis=-1)

    good = agd.least_squares(decay_residuals, [1.0, 1.0, 0.0], (T, DECAY), jac=jac)
    assert good.success
    assert good.jacobian == "jac"
    assert good.nfev < 12
    bad = agd.least_squares(decay_residuals, [1.0, 1.0, 0.0], (T, DECAY), jac=lambda *a: -jac(*a))
    assert not bad.success
    with pytest.raises(ValueError, match="jac must return the derivatives"):
        agd.least_squares(
            decay_residuals, [1.0, 1.0, 0.0], (T, DECAY), jac=lambda *a: jac(*a)[:, :2]
        )


def test_trees_of_arrays_keep_their_structure(xp: Xp) -> None:
    def residuals(p: Any, t: Any, y: Any) -> Any:
        return decay(t, p["curve"][0], p["curve"][1], p["level"]) - y

    tree = {"curve": xp.asarray([1.0, 1.0]), "level": xp.asarray(0.0)}
    result = agd.least_squares(residuals, tree, (xp.asarray(T), xp.asarray(DECAY)))
    assert result.success
    assert set(result.x) == set(result.grad) == {"curve", "level"}
    assert tuple(result.x["level"].shape) == ()
    assert abs(float(xp.to_numpy(result.x["level"])) - 0.4) < 0.02


@pytest.mark.parametrize("bounds", [([0.0, 0.0, 0.0], [2.0, 5.0, 1.0]), ([3.0, 0.0, 0.0], np.inf)])
def test_bounds_hold_at_every_call_and_give_scipys_answer(xp: Xp, bounds: Any) -> None:
    low, high = (np.broadcast_to(np.asarray(side, dtype=float), (3,)) for side in bounds)
    met: list[Any] = []

    def residuals(x: Any, t: Any, y: Any) -> Any:
        met.append(xp.to_numpy(x))
        return decay_residuals(x, t, y)

    start = np.clip([1.0, 1.0, 0.0], low, high)
    result = agd.least_squares(
        residuals,
        xp.asarray(start),
        (xp.asarray(T), xp.asarray(DECAY)),
        jac="3-point",
        bounds=bounds,
    )
    points = np.stack(met)
    assert (points >= low).all()
    assert (points <= high).all()
    peer = optimize.least_squares(
        decay_residuals, start + 0.1 * (start == low) - 0.1 * (start == high), args=(T, DECAY),
        bounds=(low, high), xtol=1e-14, ftol=1e-14, gtol=1e-14,
    )  # fmt: skip
    assert result.success
    np.testing.assert_allclose(xp.to_numpy(result.x), peer.x, rtol=2e-3 if single(xp) else 1e-5)
    assert np.abs(xp.to_numpy(result.active_mask)).sum() == 1


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy", "arctan"])
def test_robust_losses_are_scipys(loss: str) -> None:
    y = DECAY + 3.0 * (np.arange(len(T)) % 7 == 3)
    result = agd.least_squares(
        decay_residuals, [1.0, 1.0, 0.0], (T, y), loss=loss, f_scale=0.1, jac="3-point"
    )
    peer = optimize.least_squares(
        decay_residuals, result.x * 1.01, args=(T, y), loss=loss, f_scale=0.1, jac="3-point",
        xtol=1e-15, ftol=1e-15, gtol=1e-12,
    )  # fmt: skip
    assert result.success
    np.testing.assert_allclose(result.x, peer.x, rtol=1e-5)
    np.testing.assert_allclose(result.cost, peer.cost, rtol=1e-10)


def test_weights_count_as_repeated_residuals() -> None:
    count = np.arange(len(T)) % 3
    weighted = agd.least_squares(decay_residuals, [1.0, 1.0, 0.0], (T, DECAY), weights=count)
    repeated = agd.least_squares(
        decay_residuals, [1.0, 1.0, 0.0], (np.repeat(T, count), np.repeat(DECAY, count))
    )
    np.testing.assert_allclose(weighted.x, repeated.x, rtol=1e-7)
    np.testing.assert_allclose(weighted.cost, repeated.cost, rtol=1e-9)


def test_circles_and_ellipses() -> None:
    angle = np.linspace(0.0, 5.0, 30)
    circle = np.stack([1.0 + 2.0 * np.cos(angle), -3.0 + 2.0 * np.sin(angle)])
    result = agd.least_squares(
        lambda x: np.hypot(circle[0] - x[0], circle[1] - x[1]) - x[2], [0.0, 0.0, 1.0]
    )
    assert result.success
    np.testing.assert_allclose(result.x, [1.0, -3.0, 2.0], rtol=1e-8)

    def ellipse(x: Any) -> Any:  # centre, axes, turn, and an angle for each point
        c, s = np.cos(x[4]), np.sin(x[4])
        u, v = x[2] * np.cos(x[5:]), x[3] * np.sin(x[5:])
        points = np.stack([x[0] + c * u - s * v, x[1] + s * u + c * v])
        return points - target

    truth = np.concatenate([[1.0, 2.0, 3.0, 1.5, 0.4], angle])
    target = np.zeros((2, 30))
    target = ellipse(truth)
    result = agd.least_squares(ellipse, truth + 0.1 * np.cos(np.arange(35.0)))
    assert result.success
    np.testing.assert_allclose(result.x, truth, rtol=1e-6, atol=1e-9)


def test_residuals_that_are_not_finite_cut_the_step_back() -> None:
    def residuals(x: Any) -> Any:  # the first step leads to negative numbers
        with np.errstate(invalid="ignore"):
            return np.stack([np.log(x[0]) + 3.0, x[1] - 1.0])

    result = agd.least_squares(residuals, [10.0, 0.0])
    assert result.success
    np.testing.assert_allclose(result.x, [math.exp(-3.0), 1.0], rtol=1e-8)
    with pytest.raises(ValueError, match="residuals must be finite at x0"):
        agd.least_squares(residuals, [-1.0, 0.0])


# -- Failures are named ----------------------------------------------------------------------------------


def test_what_grows_for_ever_is_not_converged() -> None:
    falling = agd.least_squares(lambda x: np.stack([np.exp(-x[0]), x[1] - 1.0]), [1.0, 0.0])
    assert falling.status is agd.Status.UNBOUNDED
    plateau = agd.least_squares(lambda x: 1.0 + np.exp(-x * np.asarray([1.0, 2.0])), [1.0])
    assert not plateau.success


def test_dependent_columns_are_named() -> None:
    y = np.asarray([1.0, 2.0, 2.5])
    with pytest.warns(np.exceptions.RankWarning, match=r"linearly dependent.*x\[0\], x\[1\]"):
        result = agd.least_squares(
            lambda x: (x[0] + x[1]) * np.asarray([1.0, 2.0, 3.0]) + x[2] - y, [1.0, 1.0, 1.0]
        )
    assert result.status is agd.Status.NO_MINIMUM


def test_a_saddle_of_the_cost_is_not_converged() -> None:
    # Half the sum of squares has a maximum along x[1] at 0, where the Jacobian vanishes.
    with pytest.warns(np.exceptions.RankWarning):
        result = agd.least_squares(
            lambda x: np.stack([x[0] - 1.0, x[1] ** 2 - 1.0]), [0.0, 0.0], jac="3-point"
        )
    assert not result.success


def test_limits_and_callbacks_end_a_run() -> None:
    args = (T, DECAY)
    limited = agd.least_squares(
        decay_residuals, [1.0, 1.0, 0.0], args, stop=agd.Stop(max_iter=2), jac="3-point"
    )
    assert limited.status is agd.Status.MAX_ITER
    assert limited.nit == 2
    points: list[Any] = []
    stopped = agd.least_squares(
        decay_residuals, [1.0, 1.0, 0.0], args, jac="3-point",
        callback=lambda x: points.append(x) or len(points) == 3,
    )  # fmt: skip
    assert stopped.status is agd.Status.CALLBACK
    assert len(points) == 3
    np.testing.assert_array_equal(stopped.x, points[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "newton"}, "method must be one of"),
        ({"loss": "l1"}, "loss must be one of"),
        ({"batch": 2}, "batch must be 0 or 1"),
        ({"jac": "4-point"}, "jac must be one of"),
        ({"jac": "autodiff"}, "cannot follow residuals"),
        ({"weights": [-1.0] * 20}, "weights must be 0 or more"),
        ({"x_scale": [1.0, 2.0]}, "x_scale must be a number or one for each"),
        ({"bounds": ([0.0, 0.0, 2.0], [1.0, 1.0, 1.0])}, "cross"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agd.least_squares(decay_residuals, [1.0, 1.0, 0.0], (T, DECAY), **arguments)


# -- Curves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("kind", ["none", "vector", "matrix"])
def test_curves_have_scipys_covariance(xp: Xp, kind: str, absolute: bool) -> None:
    vector = 0.02 * (1.0 + T)
    matrix = np.diag(vector**2) + 1e-5 * np.exp(-np.abs(T[:, None] - T))
    sigma = {"none": None, "vector": vector, "matrix": matrix}[kind]
    popt, pcov = agd.curve_fit(
        decay, xp.asarray(T), xp.asarray(DECAY), xp.asarray([1.0, 1.0, 0.0]),
        sigma=None if sigma is None else xp.asarray(sigma), absolute_sigma=absolute,
    )  # fmt: skip
    peer, peer_cov = optimize.curve_fit(
        lambda t, a, b, c: a * np.exp(-b * t) + c, T, DECAY, [1.0, 1.0, 0.0], sigma=sigma, absolute_sigma=absolute,
        ftol=1e-14, xtol=1e-14,
    )  # fmt: skip
    np.testing.assert_allclose(xp.to_numpy(popt), peer, rtol=2e-3 if single(xp) else 1e-6)
    errors = np.sqrt(np.diag(xp.to_numpy(pcov)))
    np.testing.assert_allclose(
        errors, np.sqrt(np.diag(peer_cov)), rtol=5e-3 if single(xp) else 1e-5
    )


def test_a_summary_names_the_parameters() -> None:
    fit = agd.curve_fit(decay, T, DECAY, [1.0, 1.0, 0.0])
    text = fit.summary()
    for part in ("height", "rate", "level", "17 degrees of freedom", "CONVERGED"):
        assert part in text
    np.testing.assert_allclose(fit.stderr, np.sqrt(np.diag(fit.pcov)))
    assert repr(fit) == text


def test_a_covariance_that_is_not_known_is_infinite() -> None:
    with pytest.warns((np.exceptions.RankWarning, agd.ConvergenceWarning)):
        fit = agd.curve_fit(lambda t, a, b, c: (a + b) * t + c, T, DECAY, [1.0, 1.0, 0.0])
    assert np.isinf(fit.pcov).all()
    with pytest.warns(np.exceptions.RankWarning, match="cannot be estimated"):
        fit = agd.curve_fit(decay, T[:3], DECAY[:3], [1.0, 1.0, 0.0])
    assert np.isinf(fit.pcov).all()


# -- Batches ---------------------------------------------------------------------------------------------


def peaks(count: int, noise: float = 0.02) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(5)
    t = np.linspace(-1.0, 1.0, 25)
    truth = np.stack(
        [rng.uniform(1.0, 3.0, count), rng.uniform(-0.3, 0.3, count), rng.uniform(0.15, 0.4, count),
         rng.uniform(-0.5, 0.5, count)], axis=-1,
    )  # fmt: skip
    clean = np.stack([peak(t, *p) for p in truth])
    start = truth * rng.uniform(0.8, 1.2, truth.shape)
    return t, clean + noise * rng.normal(size=clean.shape), start


def peak(t: Any, height: Any, centre: Any, width: Any, level: Any) -> Any:
    xp = agd.backends.namespace(height) if agd.backends.is_array(height) else np
    return height * xp.exp(-0.5 * ((t - centre) / width) ** 2) + level


@pytest.mark.parametrize("count", [5, 80])
def test_a_batch_has_the_answers_of_its_problems(xp: Xp, count: int) -> None:
    if count > 5 and (single(xp) or xp.name == "dask"):
        pytest.skip(
            "normal equations in single precision are another matter; many graphs of Dask take long"
        )
    t, y, start = peaks(count)
    fits = agd.curve_fit(peak, xp.asarray(t), xp.asarray(y), xp.asarray(start), batch=1)
    assert fits.result.success.mean() >= (0.9 if single(xp) else 1.0)
    assert fits.result.status.shape == fits.result.nit.shape == (count,)
    popt, errors = xp.to_numpy(fits.popt), xp.to_numpy(fits.stderr)
    for i in range(0, count, 9):
        peer, cov = optimize.curve_fit(peak, t, y[i], start[i], ftol=1e-14, xtol=1e-14)
        np.testing.assert_allclose(popt[i], peer, rtol=1e-3 if single(xp) else 1e-5, atol=1e-6)
        rtol = 2e-3 if single(xp) else 1e-5
        np.testing.assert_allclose(errors[i], np.sqrt(np.diag(cov)), rtol=rtol)


def test_one_problem_of_a_batch_may_fail_alone() -> None:
    t, y, start = peaks(60)
    y[7, 3] = np.nan
    with pytest.warns((agd.ConvergenceWarning, np.exceptions.RankWarning), match="1 of 60"):
        fits = agd.curve_fit(peak, t, y, start, batch=1)
    assert fits.result.status[7] == agd.Status.NON_FINITE
    assert fits.result.success.sum() == 59
    assert np.isinf(fits.pcov[7]).all()


def test_a_function_that_holds_the_data_itself_serves_a_batch_too() -> None:
    t, y, start = peaks(70)
    closed = agd.least_squares(
        lambda x: peak(t, x[:, :1], x[:, 1:2], x[:, 2:3], x[:, 3:]) - y, start, batch=1
    )
    given = agd.least_squares(
        lambda x, y: peak(t, x[:, :1], x[:, 1:2], x[:, 2:3], x[:, 3:]) - y, start, (y,), batch=1
    )
    assert closed.success.all()
    np.testing.assert_allclose(closed.x, given.x, rtol=1e-9)
    assert closed.fun.shape == y.shape
    assert closed.jac.shape == (*y.shape, 4)


def test_a_batch_stays_within_bounds() -> None:
    t, y, start = peaks(50)
    low, high = np.asarray([0.0, -1.0, 0.05, 0.0]), np.asarray([2.0, 1.0, 1.0, 1.0])
    start = np.clip(start, low, high)
    fits = agd.curve_fit(peak, t, y, start, bounds=(low, high), batch=1)
    assert (fits.popt >= low).all()
    assert (fits.popt <= high).all()
    for i in range(0, 50, 7):
        one = agd.curve_fit(peak, t, y[i], start[i], bounds=(low, high))
        np.testing.assert_allclose(fits.popt[i], one.popt, rtol=1e-4, atol=1e-6)


@pytest.mark.backend("torch")
def test_a_refused_step_of_a_batch_takes_few_operations() -> None:
    """A model that is constant has only refused steps: what an accepted one takes more is not counted here."""
    torch = pytest.importorskip("torch")
    from helpers.device_operations import operation_count

    t, y, start = (torch.asarray(a) for a in peaks(100))

    def jac(t: Any, height: Any, centre: Any, width: Any, level: Any) -> Any:
        return jacobian

    def flat(t: Any, *p: Any) -> Any:
        return values

    values, jacobian = y + 1.0, torch.zeros((100, 25, 4), dtype=torch.float64) + torch.eye(25, 4)

    def run(steps: int) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return operation_count(
                lambda: agd.curve_fit(flat, t, y, start, jac=jac, batch=1, stop=agd.MaxEval(steps))
            )

    assert (run(6) - run(3)) / 3.0 <= 60.0


def test_a_covariance_that_is_not_positive_definite_is_named():
    x = np.arange(3.0)
    with pytest.raises(ValueError, match="sigma must be a positive definite matrix"):
        agd.curve_fit(lambda x, a: a * x, x, x, [1.0], sigma=-np.eye(3))
