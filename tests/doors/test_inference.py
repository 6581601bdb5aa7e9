"""Standard errors, tests, intervals and scores of a fit: those of statsmodels, on every library and kind of data."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import agd
from agd import inference
from agd.loss import (
    L2,
    Binomial,
    Gamma,
    Huber,
    InverseGaussian,
    Logistic,
    NegativeBinomial,
    Poisson,
    Tukey,
    Tweedie,
)

NIST = Path(__file__).parents[1] / "reference_data" / "nist"
KINDS = ("model", "HC0", "HC1", "HC2", "HC3", "cluster")

# Brownlee's data of a plant that oxidises ammonia: air flow, water temperature, acid concentration; losses.
STACK_X = np.asarray(
    [
        (80, 27, 89), (80, 27, 88), (75, 25, 90), (62, 24, 87), (62, 22, 87), (62, 23, 87), (62, 24, 93),
        (62, 24, 93), (58, 23, 87), (58, 18, 80), (58, 18, 89), (58, 17, 88), (58, 18, 82), (58, 19, 93),
        (50, 18, 89), (50, 18, 86), (50, 19, 72), (50, 19, 79), (50, 20, 80), (56, 20, 82), (70, 20, 91),
    ],
    dtype=float,
)  # fmt: skip
STACK_Y = np.asarray(
    [42, 37, 37, 28, 18, 18, 19, 20, 15, 14, 14, 13, 11, 12, 8, 7, 8, 8, 9, 15, 15], dtype=float
)
GROUPS = np.arange(21) // 3
COUNTS = np.column_stack([STACK_Y, 10.0 + np.arange(21)])  # successes and failures


def made(n=200):
    """Return rows with a column far from 0, classes, counts, weights and groups."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)) * [1.0, 2.0, 0.5] + [0.0, 50.0, -1.0]
    z = 0.4 * X[:, 0] - 0.2 * (X[:, 1] - 50.0) + 0.3 * X[:, 2]
    y = {
        "squared_error": z + rng.normal(size=n),
        "log_loss": (rng.random(n) < 1.0 / (1.0 + np.exp(-z))).astype(float),
        "poisson": rng.poisson(np.exp(z)).astype(float),
        "gamma": rng.gamma(2.0, np.exp(z) / 2.0) + 1e-3,
    }
    return X, y, rng.uniform(0.5, 2.0, size=n), rng.integers(0, 12, size=n)


def reference(result, X, y, weight, kind, groups):
    """Return the covariance by its formula, without blocks or centres."""
    A, loss = np.column_stack([X, np.ones(len(X))]), result.loss
    z = result.decision_function(X)
    n, d = A.shape
    mean = loss.inverse_link(z)
    slope, expected = weight * loss.gradient(z, y), weight * loss.hessian(z, mean)
    bread = np.linalg.inv(A.T @ (A * (weight * loss.hessian(z, y))[:, None]))
    if kind == "model":
        pearson = np.sum(slope**2 / expected)
        return np.linalg.inv(A.T @ (A * expected[:, None])) * (
            1.0 if loss.fixed_dispersion else pearson / (n - d)
        )
    U, factor = A * slope[:, None], 1.0
    if kind in ("HC2", "HC3"):
        hat = np.linalg.inv(A.T @ (A * expected[:, None]))
        left = 1.0 - expected * np.einsum("ij,jk,ik->i", A, hat, A)
        U = U / left[:, None] ** (0.5 if kind == "HC2" else 1.0)
    if kind == "HC1":
        factor = n / (n - d)
    if kind == "cluster":
        U = np.stack([U[groups == g].sum(axis=0) for g in np.unique(groups)])
        factor = len(U) / (len(U) - 1) * (n - 1) / (n - d)
    return factor * bread @ U.T @ U @ bread


# ---- Against known numbers ---------------------------------------------------------------------------------


def test_least_squares_has_the_certified_standard_errors_of_longley():
    lines = (NIST / "Longley.dat").read_text().splitlines()
    certified = np.asarray([float(line.split()[2]) for line in lines[30:37]])
    data = np.asarray([[float(x) for x in line.split()] for line in lines[60:76]])
    result = agd.fit(data[:, 1:], data[:, 0])
    np.testing.assert_allclose(np.roll(result.std_error, 1), certified, rtol=1e-9)
    assert result.summary().fit["r2"] == pytest.approx(0.995479004577296, rel=1e-12)
    assert result.deviance == pytest.approx(836424.055505915, rel=1e-9)


def test_least_squares_has_the_numbers_of_statsmodels():
    result = agd.fit(STACK_X, STACK_Y)
    summary = result.summary()
    known = [0.134858185355367, 0.368024265272689, 0.156294043248625, 11.8959968506442]
    np.testing.assert_allclose(result.std_error, known, rtol=1e-9)
    np.testing.assert_allclose(
        summary.statistic, [5.306613007, 3.519567177, -0.973309769, -3.355723351], rtol=1e-6
    )
    np.testing.assert_allclose(
        summary.p_value,
        [5.799024724e-05, 2.630054396e-03, 3.440460967e-01, 3.750306832e-03],
        rtol=1e-5,
    )
    assert summary.fit["log_likelihood"] == pytest.approx(-52.287795502, abs=1e-8)
    assert summary.fit["aic"] == pytest.approx(112.575591005, abs=1e-8)
    assert summary.fit["r2"] == pytest.approx(0.91357690446068, rel=1e-12)


def peer_cases():
    """Yield a name, a fit and the fit of statsmodels for each model that both have."""
    sm = pytest.importorskip("statsmodels.api")
    families, links = sm.families, sm.families.links
    A = np.column_stack([STACK_X, np.ones(21)])
    weight = np.linspace(0.5, 2.0, 21)
    yield "ols", agd.fit(STACK_X, STACK_Y), sm.OLS(STACK_Y, A)
    yield "wls", agd.fit(STACK_X, STACK_Y, sample_weight=weight), sm.WLS(STACK_Y, A, weights=weight)
    labels = np.asarray([0, 1, 0, 1, 1, 0, 1] * 3, dtype=float)
    glms = {
        "binomial": ("log_loss", labels, families.Binomial(), None),
        "probit": (Logistic(link="probit"), labels, families.Binomial(links.Probit()), None),
        "counts": (Binomial(counts=True), COUNTS, families.Binomial(), None),
        "shares": (Binomial(), COUNTS[:, 0] / COUNTS.sum(axis=1), families.Binomial(), weight),
        "poisson": (Poisson(), STACK_Y, families.Poisson(), None),
        "poisson, root": (Poisson(link="sqrt"), STACK_Y, families.Poisson(links.Sqrt()), None),
        "poisson weighted": (Poisson(), STACK_Y, families.Poisson(), weight),
        "gamma": (Gamma(), STACK_Y, families.Gamma(links.Log()), None),
        "gamma weighted": (Gamma(), STACK_Y, families.Gamma(links.Log()), weight),
        "inverse gaussian": (
            InverseGaussian(),
            STACK_Y,
            families.InverseGaussian(links.Log()),
            None,
        ),
        "negative binomial": (
            NegativeBinomial(0.3),
            STACK_Y,
            families.NegativeBinomial(alpha=0.3),
            None,
        ),
        "tweedie": (Tweedie(1.5), STACK_Y, families.Tweedie(links.Log(), var_power=1.5), None),
    }
    for name, (loss, y, family, s) in glms.items():
        result = agd.fit(STACK_X, y, loss=loss, sample_weight=s, stop=agd.Stop(grad_tol=1e-11))
        yield name, result, sm.GLM(y, A, family=family, var_weights=s)


@pytest.mark.filterwarnings("ignore")  # of statsmodels
def test_the_peer_agrees_to_six_digits():
    for name, result, model in peer_cases():
        tight = {} if name in ("ols", "wls") else {"tol": 1e-14}
        known, summary = model.fit(**tight), result.summary()
        np.testing.assert_allclose(summary.std_error, known.bse, rtol=1e-7, err_msg=name)
        rows = np.eye(4)[:2]
        peer_test = known.wald_test(rows, use_f=summary.distribution == "t", scalar=True)
        ours = result.wald_test(rows)
        assert ours.statistic == pytest.approx(float(peer_test.statistic), rel=1e-6), name
        assert ours.p_value == pytest.approx(float(peer_test.pvalue), rel=1e-6), name
        if name != "tweedie":  # whose density is a series
            assert summary.fit["log_likelihood"] == pytest.approx(known.llf, rel=1e-9), name
            assert summary.fit["aic"] == pytest.approx(known.aic, rel=1e-9), name
        if hasattr(known, "deviance"):
            assert result.deviance == pytest.approx(known.deviance, rel=1e-8), name
            assert summary.fit["null_deviance"] == pytest.approx(known.null_deviance, rel=1e-8), (
                name
            )
            assert summary.fit["dispersion"] == pytest.approx(known.scale, rel=1e-7), name
        for kind in ("HC0", "HC1", "HC2", "HC3") if not tight else ("HC0",):
            robust = model.fit(cov_type=kind, **tight).bse
            ours = np.sqrt(np.diag(result.cov(kind=kind)))
            np.testing.assert_allclose(ours, robust, rtol=1e-6, err_msg=f"{name} {kind}")
        robust = model.fit(cov_type="cluster", cov_kwds={"groups": GROUPS}, **tight).bse
        ours = np.sqrt(np.diag(result.cov(kind="cluster", groups=GROUPS)))
        np.testing.assert_allclose(ours, robust, rtol=1e-6, err_msg=f"{name} clusters")


@pytest.mark.filterwarnings("ignore")
def test_exposures_and_offsets_count(xp):
    sm = pytest.importorskip("statsmodels.api")
    X, y, weight, groups = made()
    known = sm.GLM(
        y["poisson"],
        np.column_stack([X, np.ones(len(X))]),
        family=sm.families.Poisson(),
        exposure=weight,
    )
    plain = known.fit(tol=1e-14)
    rows = xp.asarray(X), xp.asarray(y["poisson"])
    result = agd.fit(*rows, loss="poisson", exposure=xp.asarray(weight))
    rtol = 1e-3 if xp.rtol > 1e-6 else 1e-6
    np.testing.assert_allclose(xp.to_numpy(result.std_error), plain.bse, rtol=rtol)
    assert float(result.deviance) == pytest.approx(plain.deviance, rel=rtol)
    robust = known.fit(cov_type="cluster", cov_kwds={"groups": groups}, tol=1e-14)
    ours = xp.to_numpy(result.cov(kind="cluster", groups=groups))
    np.testing.assert_allclose(np.sqrt(np.diag(ours)), robust.bse, rtol=rtol)
    fit = result.summary().fit
    assert fit["null_deviance"] == pytest.approx(plain.null_deviance, rel=rtol)
    assert fit["aic"] == pytest.approx(plain.aic, rel=rtol)
    explained = 1.0 - plain.deviance / plain.null_deviance
    assert float(result.score()) == pytest.approx(explained, rel=10.0 * rtol)
    again = result.without_data().with_data(*rows, exposure=xp.asarray(weight))
    assert float(again.score()) == float(result.score())
    assert float(result.score(*rows, exposure=xp.asarray(weight))) == float(result.score())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Duncan", "longley", "scotland", "spector", "randhie", "ccard"])
def test_the_peer_agrees_on_the_data_that_it_ships(name):
    sm = pytest.importorskip("statsmodels.api")
    family = {"scotland": "Gamma", "spector": "Binomial", "randhie": "Poisson"}.get(name)
    if (
        name == "Duncan"
    ):  # of a package of R's, which has to be downloaded: its rows are those of `STACK_X`
        X, y = STACK_X, STACK_Y
    else:
        data = getattr(sm.datasets, name).load_pandas()
        X, y = data.exog.to_numpy(float), data.endog.to_numpy(float)
    A = np.column_stack([X, np.ones(len(X))])
    if family is None:
        known, result = sm.OLS(y, A).fit(), agd.fit(X, y)
    else:
        link = {"Gamma": (sm.families.links.Log(),)}.get(family, ())
        known = sm.GLM(y, A, family=getattr(sm.families, family)(*link)).fit(tol=1e-14)
        loss = {"Gamma": "gamma", "Binomial": "log_loss", "Poisson": "poisson"}[family]
        result = agd.fit(X, y, loss=loss)
    np.testing.assert_allclose(result.std_error, known.bse, rtol=1e-6)
    if (
        family != "Gamma"
    ):  # whose dispersion is estimated: R's t, where the peer has the normal distribution
        np.testing.assert_allclose(result.conf_int(0.9), known.conf_int(0.1), rtol=1e-5, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_robust_losses_have_the_covariance_of_the_peer():
    sm = pytest.importorskip("statsmodels.api")
    A = np.column_stack([STACK_X, np.ones(21)])
    for norm, loss in (
        (sm.robust.norms.HuberT(1.345), lambda s: Huber(1.345 * s)),
        (sm.robust.norms.TukeyBiweight(), lambda s: Tukey(4.685 * s)),
    ):
        known = sm.RLM(STACK_Y, A, M=norm).fit(tol=1e-14, maxiter=500)
        result = agd.fit(STACK_X, STACK_Y, loss=loss(known.scale), stop=agd.Stop(grad_tol=1e-11))
        np.testing.assert_allclose(result.std_error, known.bse, rtol=1e-7)
        assert result.summary().distribution == "z"


def test_huber_has_the_numbers_of_statsmodels():
    result = agd.fit(
        STACK_X, STACK_Y, loss=Huber(3.282521043364788)
    )  # 1.345 times the scale of its fit
    np.testing.assert_allclose(
        result.std_error, [0.11100521335, 0.30293016311, 0.12864961494, 9.79189854135], rtol=1e-7
    )


# ---- On every library and kind of data ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "gamma"])
def test_every_library_has_the_covariance_of_the_formula(xp, loss, kind):
    X, y, weight, groups = made()
    more = {"groups": groups} if kind == "cluster" else {}
    result = agd.fit(
        xp.asarray(X), xp.asarray(y[loss]), loss=loss, sample_weight=xp.asarray(weight)
    )
    cov = result.cov(kind=kind, **more)
    exact = agd.fit(X, y[loss], loss=loss, sample_weight=weight)
    known = reference(exact, X, y[loss], weight, kind, groups)
    scale = np.sqrt(np.outer(np.diag(known), np.diag(known)))
    rtol = 2e-3 if xp.rtol > 1e-6 else 1e-7
    np.testing.assert_allclose(xp.to_numpy(cov) / scale, known / scale, atol=rtol)
    assert cov.dtype == result.coef.dtype
    assert type(cov) is type(result.coef)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_sparse_rows_and_batches_have_the_covariance_of_arrays(kind):
    sparse = pytest.importorskip("scipy.sparse")
    X, y, weight, groups = made()
    more = {"groups": groups} if kind == "cluster" else {}
    y = y["poisson"]
    stop = agd.Stop(grad_tol=1e-10)
    known = agd.fit(X, y, loss="poisson", sample_weight=weight, stop=stop).cov(kind=kind, **more)
    stream = agd.Stream(
        [(X[i : i + 70], y[i : i + 70], weight[i : i + 70]) for i in range(0, 200, 70)]
    )
    streamed = agd.fit(stream, loss="poisson", stop=stop)
    np.testing.assert_allclose(streamed.cov(kind=kind, **more), known, rtol=1e-6)
    rows = agd.fit(sparse.csr_array(X), y, loss="poisson", sample_weight=weight, stop=stop)
    np.testing.assert_allclose(rows.cov(kind=kind, **more), known, rtol=1e-6)
    batch = agd.fit(
        np.stack([X, 2.0 * X]), np.stack([y, y]), loss="poisson", sample_weight=weight, stop=stop
    )
    np.testing.assert_allclose(batch.cov(kind=kind, **more)[0], known, rtol=1e-6)
    np.testing.assert_allclose(batch.std_error[1, :-1], batch.std_error[0, :-1] / 2.0, rtol=1e-6)
    targets = agd.fit(
        X, np.column_stack([y, 3.0 * y]), loss="poisson", sample_weight=weight, stop=stop
    )
    np.testing.assert_allclose(targets.cov(kind=kind, **more)[0], known, rtol=1e-6)


def test_a_thousand_fits_have_their_standard_errors_in_one_call():
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(1000, 30, 2)), rng.normal(size=(1000, 30))
    batch = agd.fit(X, X @ [1.0, 2.0] + noise)
    assert batch.std_error.shape == (1000, 3)
    assert batch.conf_int().shape == (1000, 3, 2)
    one = agd.fit(X[7], X[7] @ [1.0, 2.0] + noise[7])
    np.testing.assert_allclose(batch.std_error[7], one.std_error, rtol=1e-12)
    covered = np.abs(batch.coef[:, 0] - 1.0) < batch.std_error[:, 0] * inference.t_quantile(
        0.9, 27.0
    )
    assert 0.87 < covered.mean() < 0.93
    assert batch.score().shape == batch.deviance.shape == (1000,)
    with pytest.raises(ValueError, match="a summary is of one problem"):
        batch.summary()


def test_a_shift_of_the_columns_costs_no_digits():
    X, y, _, _ = made()
    near, far = agd.fit(X, y["squared_error"]), agd.fit(X + 1e7, y["squared_error"])
    np.testing.assert_allclose(far.std_error[:3], near.std_error[:3], rtol=1e-8)


def test_badly_conditioned_columns_keep_their_digits():
    # A polynomial of degree 8 in raw powers, whose standard errors follow from its orthogonal polynomials.
    t = np.linspace(0.0, 10.0, 60)
    X = t[:, None] ** np.arange(1, 9)
    y = np.sin(t) + 0.1 * np.cos(37.0 * t)
    result = agd.fit(X, y)
    Q, R = np.linalg.qr(np.column_stack([np.ones(60), X]) / np.append(1.0, 10.0 ** np.arange(1, 9)))
    variance = np.sum((y - Q @ (Q.T @ y)) ** 2) / 51
    inverse = np.linalg.inv(R) / np.append(1.0, 10.0 ** np.arange(1, 9))[:, None]
    known = np.sqrt(variance * np.sum(inverse**2, axis=1))
    np.testing.assert_allclose(np.roll(result.std_error, 1), known, rtol=1e-6)


# ---- What data and models may be ---------------------------------------------------------------------------


def test_rows_of_weight_zero_do_not_count():
    X, y, weight, _ = made()
    padded = np.concatenate([X, X + 3.0]), np.concatenate([y["gamma"], y["gamma"]])
    zeros = np.concatenate([weight, 0.0 * weight])
    result = agd.fit(X, y["gamma"], loss="gamma", sample_weight=weight)
    more = agd.fit(*padded, loss="gamma", sample_weight=zeros)
    np.testing.assert_allclose(more.std_error, result.std_error, rtol=1e-7)
    ours, theirs = more.summary().fit, result.summary().fit
    assert ours == pytest.approx(theirs, rel=1e-7)


def test_dependent_columns_are_open_and_the_others_are_not():
    X, y, _, _ = made()
    wide = np.column_stack([X, X[:, 0] + X[:, 2], np.full(len(X), 2.0)])
    with pytest.warns(np.exceptions.RankWarning):
        result = agd.fit(wide, y["squared_error"])
    error = result.std_error
    assert np.isnan(error[[0, 2, 3, 4, 5]]).all()
    known = agd.fit(X, y["squared_error"])
    assert error[1] == pytest.approx(known.std_error[1], rel=1e-8)
    summary = result.summary()
    assert summary.fit["rank"] == 4
    assert summary.fit["dispersion"] == pytest.approx(known.summary().fit["dispersion"], rel=1e-8)
    assert " - " in str(summary).replace("\n", " ")
    ours, theirs = result.predict(wide[:5], interval=0.9), known.predict(X[:5], interval=0.9)
    np.testing.assert_allclose(ours.upper, theirs.upper, rtol=1e-7)
    assert np.isnan(result.wald_test([1.0, 0, 0, 0, 0, 0]).statistic)
    assert result.wald_test([0.0, 1, 0, 0, 0, 0]).p_value < 1.0


def test_as_many_parameters_as_rows_leave_no_standard_errors():
    result = agd.fit([[1.0], [2.0]], [1.0, 3.0])
    assert np.isnan(result.std_error).all()


def test_no_intercept_leaves_the_columns_uncentred():
    X, y, _, _ = made()
    result = agd.fit(X, y["squared_error"], intercept=False)
    r = y["squared_error"] - X @ result.coef
    known = np.linalg.inv(X.T @ X) * (r @ r) / (len(X) - 3)
    np.testing.assert_allclose(result.cov(), known, rtol=1e-9)
    hc = np.linalg.inv(X.T @ X) @ (X.T * r**2 @ X) @ np.linalg.inv(X.T @ X)
    np.testing.assert_allclose(result.cov(kind="HC0"), hc, rtol=1e-8)
    assert result.summary().fit["r2"] == pytest.approx(
        1.0 - r @ r / np.sum(y["squared_error"] ** 2)
    )


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"penalty": L2(0.1)}, "model", "penalty L2.*a penalised fit is biased"),
        ({"loss": "absolute_error"}, "HC0", "'absolute_error' is not smooth"),
        ({"loss": "squared_epsilon_insensitive"}, "clusters", "did you mean 'cluster'"),
        ({}, "cluster", "groups are needed for kind='cluster'"),
    ],
)
def test_what_has_no_standard_errors_is_refused_with_the_reason(arguments, kind, words):
    X, y, _, _ = made()
    result = agd.fit(X, y["squared_error"], **arguments)
    with pytest.raises(ValueError, match=words):
        result.cov(kind=kind)


def test_losses_that_are_no_likelihood_have_sandwiches_alone():
    X, y, weight, _ = made()
    result = agd.fit(X, y["log_loss"], loss="squared_hinge")
    with pytest.raises(ValueError, match=r"kind must be one of HC0.*no likelihood"):
        result.summary()
    assert (result.summary(kind="HC0").std_error > 0.0).all()
    with pytest.raises(AttributeError, match="no likelihood"):
        result.deviance  # noqa: B018 - a property that raises
    weighted = agd.fit(X, y["squared_error"], loss="huber", sample_weight=weight)
    with pytest.raises(ValueError, match="with sample_weight"):
        weighted.std_error  # noqa: B018 - a property that raises
    assert (np.diag(weighted.cov(kind="HC1")) > 0.0).all()


def test_groups_are_checked():
    result = agd.fit(STACK_X, STACK_Y)
    with pytest.raises(ValueError, match=r"groups must have shape \(21,\)"):
        result.cov(kind="cluster", groups=GROUPS[:5])
    with pytest.raises(ValueError, match="two clusters or more"):
        result.cov(kind="cluster", groups=np.zeros(21))
    with pytest.raises(ValueError, match="groups go with kind='cluster'"):
        result.cov(groups=GROUPS)
    text = result.cov(kind="cluster", groups=[f"g{i}" for i in GROUPS])
    np.testing.assert_array_equal(text, result.cov(kind="cluster", groups=GROUPS))


def test_a_result_without_its_data_asks_for_them():
    result = agd.fit(STACK_X, STACK_Y)
    known = result.cov()
    copied = pickle.loads(pickle.dumps(result))  # noqa: S301 - written here
    for other in (copied, result.without_data()):
        with pytest.raises(ValueError, match="X and y are missing"):
            other.summary()
        np.testing.assert_array_equal(other.cov(STACK_X, STACK_Y), known)
    assert len(pickle.dumps(result)) < 20_000
    with pytest.raises(ValueError, match="X is missing"):
        result.cov(y=STACK_Y)


def test_the_names_of_a_frame_stand_in_the_table():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(STACK_X, columns=["air", "water", "acid"])
    summary = agd.fit(frame, STACK_Y).summary()
    table = summary.to_frame()
    assert list(table.index) == ["air", "water", "acid", "(intercept)"]
    assert table.loc["air", "std_error"] == summary.std_error[0]
    assert str(summary).splitlines()[3].split()[0] == "air"
    assert "<td>water</td>" in summary._repr_html_()


# ---- Scores and predictions --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "poisson", "gamma"])
def test_scores_are_those_of_scikit_learn(xp, loss):
    metrics = pytest.importorskip("sklearn.metrics")
    X, y, weight, _ = made()
    y = y[loss]
    arrays = [xp.asarray(part) for part in (X, y, weight)]
    result = agd.fit(arrays[0], arrays[1], loss=loss)
    exact = agd.fit(X, y, loss=loss)
    measure = {
        "squared_error": metrics.r2_score,
        "log_loss": metrics.accuracy_score,
        "poisson": lambda *a, **k: metrics.d2_tweedie_score(*a, power=1, **k),
        "gamma": lambda *a, **k: metrics.d2_tweedie_score(*a, power=2, **k),
    }[loss]
    known = measure(y, exact.predict(X))
    rtol = 1e-3 if xp.rtol > 1e-6 else 1e-7
    assert float(result.score()) == pytest.approx(known, rel=rtol)
    weighted = result.score(arrays[0], arrays[1], sample_weight=arrays[2])
    assert float(weighted) == pytest.approx(
        measure(y, exact.predict(X), sample_weight=weight), rel=rtol
    )


def test_text_labels_are_scored_and_new_ones_are_wrong():
    X, y, _, _ = made()
    text = np.where(y["log_loss"] > 0.5, "yes", "no")
    result = agd.fit(X, text, loss="log_loss")
    known = np.mean(result.predict(X) == text)
    assert result.score() == pytest.approx(known)
    assert result.score(X, text) == pytest.approx(known)
    other = text.copy()
    other[:50] = "maybe"
    assert result.score(X, other) == pytest.approx(np.mean(result.predict(X) == other))
    softmax = agd.fit(X, text, loss="softmax")
    assert softmax.score() == pytest.approx(np.mean(softmax.predict(X) == text))
    assert softmax.deviance == pytest.approx(2.0 * len(X) * softmax.fun, rel=1e-9)


def test_intervals_of_predictions_cover_as_often_as_they_say(xp):
    X, y, _, _ = made()
    result = agd.fit(xp.asarray(X), xp.asarray(y["squared_error"]))
    found = result.predict(xp.asarray(X[:5] + 1.0), interval=0.8)
    A = np.column_stack([X, np.ones(len(X))])
    new = np.column_stack([X[:5] + 1.0, np.ones(5)])
    _, squares, *_ = np.linalg.lstsq(A, y["squared_error"], rcond=None)
    scale = squares[0] / 196
    spread = np.einsum("ij,jk,ik->i", new, np.linalg.inv(A.T @ A), new)
    t = inference.t_quantile(0.8, 196.0)
    rtol = 1e-3 if xp.rtol > 1e-6 else 1e-5
    half = xp.to_numpy(found.upper) - xp.to_numpy(found.prediction)
    np.testing.assert_allclose(half, t * np.sqrt(scale * (1.0 + spread)), rtol=rtol)
    mean = result.predict(xp.asarray(X[:5] + 1.0), interval=0.8, of="mean")
    half = xp.to_numpy(mean.prediction) - xp.to_numpy(mean.lower)
    np.testing.assert_allclose(half, t * np.sqrt(scale * spread), rtol=10.0 * rtol)


def test_intervals_of_batches_and_targets_have_the_shape_of_predictions():
    X, y, _, _ = made()
    y = y["squared_error"]
    one = agd.fit(X, y).predict(X[:4], interval=0.95)
    batch = agd.fit(np.stack([X, X]), np.stack([y, 2.0 * y])).predict(X[:4], interval=0.95)
    np.testing.assert_allclose(batch.lower[1], 2.0 * one.lower, rtol=1e-9)
    targets = agd.fit(X, np.column_stack([y, 2.0 * y])).predict(X[:4], interval=0.95)
    np.testing.assert_allclose(targets.lower[:, 1], 2.0 * one.lower, rtol=1e-9)
    with pytest.raises(ValueError, match="interval goes with loss 'squared_error'"):
        agd.fit(X, np.exp(y), loss="gamma").predict(X, interval=0.95)
    with pytest.raises(ValueError, match="of must be one of 'observation', 'mean'"):
        agd.fit(X, y).predict(X, interval=0.95, of="means")
    with pytest.raises(ValueError, match="interval must be a number between 0 and 1"):
        agd.fit(X, y).predict(X, interval=95.0)


# ---- Distributions -----------------------------------------------------------------------------------------


def test_the_distributions_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    x = np.concatenate([[0.0], np.geomspace(1e-6, 30.0, 60)])
    for df in (1.0, 2.0, 7.5, 100.0, 1e6):
        np.testing.assert_allclose(inference.t_tail(-x, df), 2.0 * stats.t.sf(x, df), rtol=1e-9)
        for level in (0.5, 0.95, 0.9999):
            known = stats.t.ppf(0.5 + 0.5 * level, df)
            np.testing.assert_allclose(inference.t_quantile(level, df), known, rtol=1e-9)
        np.testing.assert_allclose(inference.f_tail(x, 3.0, df), stats.f.sf(x, 3.0, df), rtol=1e-8)
    for df in (1.0, 2.0, 25.0):
        np.testing.assert_allclose(inference.chi2_tail(x, df), stats.chi2.sf(x, df), rtol=1e-9)
    assert inference.t_quantile(0.95, np.inf) == pytest.approx(1.959963984540054, rel=1e-14)
    np.testing.assert_array_equal(
        np.isnan(inference.t_tail([np.nan, 1.0], [3.0, np.nan])), [True, True]
    )
    assert inference.t_tail(np.inf, 4.0) == 0.0
