"""Paths of penalties: what `agd.fit` gives for each strength, scikit-learn's grid, and information criteria."""

from __future__ import annotations

import math

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, ElasticNet, GroupL1, NonNegative

LOSSES = ("squared_error", "log_loss", "huber", "poisson")
PENALTIES = {
    "L1": L1(),
    "L2": L2(),
    "ElasticNet": ElasticNet(1.0, 0.5),
    "L1, weights": L1(weights=[0.0, 1.0, 2.0, 1.0, 0.5]),
    "L2, weights": L2(weights=[0.5, 1.0, 2.0, 1.0, 0.5]),
    "L1 + L2": L1() + L2(0.1),
    "L1 + NonNegative": L1() + NonNegative(),
    "GroupL1": GroupL1(1.0, (0, 0, 1, 1, 2)),
}


def make_data(loss="squared_error", rows=120, columns=5):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(rows, columns)) * np.exp(0.5 * rng.normal(size=columns)) + 1.0
    z = X[:, :5] @ [1.0, -0.7, 0.0, 0.3, 0.1] - 0.5
    if loss == "log_loss":
        return X, (rng.random(rows) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    if loss == "poisson":
        return X, rng.poisson(np.exp(np.minimum(z, 2.0))) * 1.0
    return X, z + rng.normal(size=rows)


def models(path):
    return zip(path.alphas, path.coef, path.intercept, strict=True)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", PENALTIES)
def test_each_model_is_that_of_a_fit(loss, name):
    X, y = make_data(loss)
    weight = np.random.default_rng(1).integers(0, 3, len(y)) * 1.0
    path = agd.penalty_path(X, y, PENALTIES[name], loss=loss, alphas=8, sample_weight=weight)
    assert path.converged.all()
    for alpha, coef, intercept in models(path):
        penalty = PENALTIES[name].strengthened(alpha)
        result = agd.fit(X, y, loss=loss, penalty=penalty, sample_weight=weight)
        np.testing.assert_allclose(coef, result.coef, atol=1e-6)
        assert intercept == pytest.approx(float(result.intercept), abs=1e-6)


@pytest.mark.parametrize("name", PENALTIES)
def test_at_the_largest_strength_the_penalised_coefficients_are_0(name):
    penalty = PENALTIES[name]
    if penalty.smooth:
        return
    for loss in LOSSES:
        path = agd.penalty_path(*make_data(loss), penalty, loss=loss, alphas=2, min_share=0.99)
        spared = name == "L1, weights"
        assert path.nonzeros[0] == spared < path.nonzeros[1], loss


@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
def test_the_grid_and_the_models_are_those_of_scikit_learn(l1_ratio):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = make_data(rows=80, columns=30)
    path = agd.penalty_path(X, y, ElasticNet(1.0, l1_ratio), alphas=50)
    centred = np.asfortranarray(X - X.mean(axis=0)), y - y.mean()
    alphas, coef, _ = linear_model.enet_path(*centred, l1_ratio=l1_ratio, alphas=50, tol=1e-13)
    np.testing.assert_allclose(path.alphas, alphas, rtol=1e-12)
    np.testing.assert_allclose(path.coef, coef.T, atol=1e-9)


def test_the_inverse_of_all_columns_gives_what_the_free_ones_give(monkeypatch):
    X, y = make_data(rows=200, columns=40)
    path = agd.penalty_path(X, y, L1(), alphas=60)
    assert path.nonzeros[-1] > 30
    monkeypatch.setattr("agd.model_selection.MIN_FREE_SHARE", 1.0)
    np.testing.assert_allclose(agd.penalty_path(X, y, L1(), alphas=60).coef, path.coef, atol=1e-12)


@pytest.mark.parametrize(("loss", "penalty"), [("squared_error", L1()), ("squared_error", L2()),
                                               ("log_loss", L1()), ("log_loss", L2())])  # fmt: skip
def test_the_quick_path_is_that_of_the_table_of_solvers(monkeypatch, loss, penalty):
    X, y = make_data(loss)
    options = {"loss": loss, "alphas": np.geomspace(1.0, 1e-3, 9)}
    path = agd.penalty_path(X, y, penalty, **options)
    monkeypatch.setattr("agd.model_selection.PATHS", {})
    slow = agd.penalty_path(X, y, penalty, **options)
    np.testing.assert_allclose(path.coef, slow.coef, atol=1e-8)
    np.testing.assert_allclose(path.deviance, slow.deviance, rtol=1e-9)


@pytest.mark.parametrize("penalty", [L1(), ElasticNet(1.0, 0.5)], ids=["L1", "ElasticNet"])
def test_many_columns_are_screened_and_looked_at(penalty):
    """Optimality of all columns at every strength, with weights, and the same as fits by the table."""
    rng = np.random.default_rng(7)
    X, weight = rng.normal(size=(60, 300)), rng.integers(1, 3, 60) * 1.0
    y = X[:, :6].sum(axis=1) + rng.normal(size=60) + 2.0
    path = agd.penalty_path(X, y, penalty, alphas=15, min_share=0.02, sample_weight=weight)
    assert path.nonzeros[0] == 0
    residual = (y[:, None] - X @ path.coef.T - path.intercept) * weight[:, None] / weight.sum()
    lasso, ridge = penalty.elastic_parts
    slopes = X.T @ residual - path.alphas * ridge * path.coef.T
    limit = path.alphas * lasso * (1.0 + 1e-8)
    assert (np.abs(slopes) <= limit).all()
    used = path.coef.T != 0.0
    np.testing.assert_allclose(np.abs(slopes)[used], (limit + 0.0 * slopes)[used], rtol=1e-7)
    for alpha, coef, _ in list(models(path))[::7]:
        one = agd.fit(X, y, penalty=penalty.strengthened(alpha), sample_weight=weight)
        np.testing.assert_allclose(coef, one.coef, atol=1e-8)


def test_columns_that_are_alike_are_left_to_the_table_of_solvers():
    X, y = make_data()
    X = np.column_stack([X, X[:, :1], np.ones(len(y))])
    path = agd.penalty_path(X, y, L1(), alphas=10)
    assert path.converged.all()
    residual = y[:, None] - X @ path.coef.T - path.intercept
    gradient = np.abs(X.T @ residual / len(y)).max(axis=0)
    assert (gradient <= path.alphas * (1.0 + 1e-9)).all()


def test_every_library_gives_the_path(xp):
    for loss in ("squared_error", "log_loss"):
        X, y = make_data(loss)
        host = agd.penalty_path(X, y, L1(), loss=loss, alphas=4)
        path = agd.penalty_path(xp.asarray(X), xp.asarray(y), L1(), loss=loss, alphas=host.alphas)
        assert path.coef.dtype == xp.dtype
        tolerance = 2e-3 if xp.rtol > 1e-8 else 1e-6
        np.testing.assert_allclose(xp.to_numpy(path.coef), host.coef, atol=tolerance)
        np.testing.assert_allclose(path.deviance, host.deviance, rtol=tolerance)


def test_sparse_rows_and_streams_give_the_path():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y = make_data()
    path = agd.penalty_path(X, y, ElasticNet(1.0, 0.5), alphas=5)
    stream = agd.Stream([(X[:50], y[:50]), (X[50:], y[50:])])
    for data in ((scipy_sparse.csr_array(X), y), (stream,)):
        other = agd.penalty_path(*data, penalty=ElasticNet(1.0, 0.5), alphas=5)
        np.testing.assert_allclose(other.alphas, path.alphas, rtol=1e-10)
        np.testing.assert_allclose(other.coef, path.coef, atol=1e-8)
        np.testing.assert_allclose(other.degrees_of_freedom, path.degrees_of_freedom, rtol=1e-8)


def test_batches_targets_outputs_and_offsets_have_paths():
    X, y = make_data()
    several = agd.penalty_path(X, np.column_stack([y, -y]), L1(), alphas=[0.5, 0.1])
    one = agd.penalty_path(X, y, L1(), alphas=[0.5, 0.1])
    np.testing.assert_allclose(several.coef, np.stack([one.coef, -one.coef], axis=1), atol=1e-8)
    batch = agd.penalty_path(np.stack([X, X]), np.stack([y, -y]), L1(), alphas=[0.5, 0.1])
    np.testing.assert_allclose(batch.coef, several.coef, atol=1e-8)
    with pytest.raises(ValueError, match="a criterion or a picture is of one problem"):
        batch.select("bic")
    labels = np.digitize(y, [-1.0, 1.0])
    softmax = agd.penalty_path(X, labels, L2(), loss="softmax", alphas=[0.1, 0.01])
    assert softmax.coef.shape == (2, 3, 5)
    assert softmax.fit_at(0.1).predict(X[:3]).shape == (3,)
    moved = agd.penalty_path(X, y + 2.0 * X[:, 0], L1(), alphas=[0.1], offset=2.0 * X[:, 0])
    np.testing.assert_allclose(moved.coef[0], one.coef[1], atol=1e-9)
    text = agd.penalty_path(X, np.where(y > 0, "b", "a"), L2(), loss="log_loss", alphas=[0.1])
    assert set(text.fit_at(0.1).predict(X)) == {"a", "b"}


# -- criteria --------------------------------------------------------------------------------------


def test_degrees_of_freedom_of_a_ridge_are_the_trace_of_its_smoother():
    X, y = make_data()
    path = agd.penalty_path(X, y, L2(), alphas=[10.0, 0.1, 0.0])
    e = np.linalg.eigvalsh(np.cov(X.T, ddof=0))
    want = [1.0 + (e / (e + alpha)).sum() for alpha in path.alphas]
    np.testing.assert_allclose(path.degrees_of_freedom, want, rtol=1e-10)
    lasso = agd.penalty_path(X, y, L1(), alphas=20)
    np.testing.assert_array_equal(lasso.degrees_of_freedom, 1 + lasso.nonzeros)


def test_criteria_are_their_equations():
    X, y = make_data()
    n, path = len(y), agd.penalty_path(X, y, L1(), alphas=20)
    residual = y[:, None] - X @ path.coef.T - path.intercept
    rss, df = (residual**2).sum(axis=0), 1 + path.nonzeros
    np.testing.assert_allclose(path.deviance, rss, rtol=1e-10)
    np.testing.assert_allclose(path.criterion("aic"), n * np.log(rss / n) + 2 * df, rtol=1e-10)
    bic = n * np.log(rss / n) + math.log(n) * df
    np.testing.assert_allclose(path.criterion("bic"), bic, rtol=1e-10)
    np.testing.assert_allclose(path.criterion("gcv"), rss / n / (1 - df / n) ** 2, rtol=1e-10)
    model = path.select("bic")
    np.testing.assert_allclose(model.coef, path.coef[bic.argmin()], atol=1e-9)
    assert model.alpha == path.alphas[bic.argmin()]
    assert "alpha" in repr(model)


def test_criteria_of_other_distributions_are_their_deviances_and_penalties():
    X, y = make_data("poisson")
    path = agd.penalty_path(X, y, L1(), loss="poisson", alphas=10)
    mean = np.exp(X @ path.coef.T + path.intercept)
    logs = np.where(y[:, None] > 0, y[:, None] * np.log(np.maximum(y[:, None], 1) / mean), 0.0)
    deviance = 2.0 * (logs - y[:, None] + mean).sum(axis=0)
    np.testing.assert_allclose(path.deviance, deviance, rtol=1e-9)
    np.testing.assert_allclose(path.criterion("aic"), deviance + 2 * (1 + path.nonzeros), rtol=1e-9)
    gamma = agd.penalty_path(X, y + 1.0, L1(), loss="gamma", alphas=10)
    last = gamma.deviance[-1] / (len(y) - 1 - gamma.nonzeros[-1])
    want = gamma.deviance / last + 2 * (1 + gamma.nonzeros)
    np.testing.assert_allclose(gamma.criterion("aic"), want, rtol=1e-9)


def test_what_cannot_be_chosen_is_said():
    X, y = make_data()
    path = agd.penalty_path(X, y, L1(), loss="huber", alphas=3)
    with pytest.raises(ValueError, match=r"rule 'bic' needs the likelihood .* agd.cross_validate"):
        path.select("bic")
    with pytest.raises(ValueError, match=r"rule must be one of .*; got 'bix'; did you mean 'bic'"):
        path.criterion("bix")
    with pytest.raises(ValueError, match="penalty is missing"):
        agd.penalty_path(X, y)
    with pytest.raises(ValueError, match="alphas must be a number of strengths, or strengths of 0"):
        agd.penalty_path(X, y, L1(), alphas=[0.1, -1.0])
    with pytest.raises(ValueError, match="no strength of NonNegative"):
        agd.penalty_path(X, y, NonNegative(), alphas=3)
    with pytest.raises(ValueError, match="X has 1 NaN"):
        agd.penalty_path(np.where(X[3, 1] == X, np.nan, X), y, L1())


def test_models_that_did_not_converge_are_counted(monkeypatch):
    X, y = make_data()
    monkeypatch.setattr("agd.model_selection.PATHS", {})
    monkeypatch.setattr("agd.model_selection.Stop", lambda: agd.Stop(max_iter=1))
    with pytest.warns(agd.ConvergenceWarning, match="the fits for . of 3 strengths ended"):
        path = agd.penalty_path(X, y, GroupL1(1.0, (0, 0, 1, 1, 2)), alphas=3)
    assert not path.converged.all()


def test_a_picture_has_a_line_for_each_coefficient():
    pytest.importorskip("matplotlib")
    X, y = make_data()
    path = agd.penalty_path(X, y, L1(), alphas=7)
    ax = path.plot()
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines[:5]], path.coef.T)
    assert path.plot(ax) is ax
    assert ax.xaxis.get_inverted()
    with pytest.raises(ValueError, match="a criterion or a picture is of one problem"):
        agd.penalty_path(X, np.column_stack([y, y]), L1(), alphas=[0.1]).plot()


def test_a_path_says_where_it_goes():
    path = agd.penalty_path(*make_data(), L1(), alphas=3)
    assert repr(path).startswith("PenaltyPath of 3 models: alpha from")


def test_the_value_of_a_model_at_the_edge_of_a_set_is_finite():
    X, y = make_data("huber", rows=300, columns=20)
    for alpha in (0.1, 1.0, 3.0, 10.0):
        assert math.isfinite(agd.fit(X, y, loss="huber", penalty=L1(alpha) + NonNegative()).fun)
