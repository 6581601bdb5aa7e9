"""Links: derivatives, ranges, and the fits of statsmodels with the same ones."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import numpy as np
import pytest

import agd
from agd import loss
from agd.loss._stable import MEAN_LINKS, PROBABILITY_LINKS, as_link, normal_tail

FAMILIES = {
    "poisson": loss.Poisson,
    "gamma": loss.Gamma,
    "inverse_gaussian": loss.InverseGaussian,
    "tweedie": loss.Tweedie,
    "negative_binomial": loss.NegativeBinomial,
    "squared_error": loss.Squared,
}
CASES = [(make, link) for make in FAMILIES.values() for link in MEAN_LINKS]
CASES += [(make, link) for make in (loss.Logistic, loss.Binomial) for link in PROBABILITY_LINKS]
IDS = [f"{make.__name__}-{link}" for make, link in CASES]


@pytest.mark.parametrize(("make", "link"), CASES, ids=IDS)
def test_derivatives_of_every_link(make, link, xp):
    if "float32" in str(xp.dtype):
        pytest.skip("differences in single precision have too few digits")
    family = make(link=link)
    z, y = np.asarray([0.3, 0.7, 1.9, 2.5]), np.asarray([1.0, 0.0, 1.0, 1.0])
    y = np.maximum(y, 0.25) if family.domain == "above 0" else y
    z, y = xp.asarray(z), xp.asarray(y)
    h = 1e-5
    value, gradient, hessian = (
        xp.to_numpy(part) for part in family.value_gradient_and_hessian(z, y)
    )
    slope = (family.value(z + h, y) - family.value(z - h, y)) / (2.0 * h)
    bend = (family.gradient(z + h, y) - family.gradient(z - h, y)) / (2.0 * h)
    np.testing.assert_allclose(gradient, xp.to_numpy(slope), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(hessian, xp.to_numpy(bend), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(xp.to_numpy(family.value(z, y)), value)
    np.testing.assert_allclose(xp.to_numpy(family.gradient(z, y)), gradient)
    np.testing.assert_allclose(xp.to_numpy(family.hessian(z, y)), hessian)


@pytest.mark.parametrize(("make", "link"), CASES, ids=IDS)
def test_a_link_and_its_inverse(make, link):
    family = make(link=link)
    assert family.link == link
    means = np.asarray([1e-3, 0.2, 0.5, 0.8, 0.999])
    np.testing.assert_allclose(family.predict(family.link(means)), means, rtol=1e-12)
    for again in (pickle.loads(pickle.dumps(family)), copy.deepcopy(family)):  # noqa: S301 - our own bytes
        assert again == family
        np.testing.assert_array_equal(again.link(means), family.link(means))


@pytest.mark.parametrize("make", FAMILIES.values())
def test_a_loss_says_where_it_is_convex(make):
    z, y = np.linspace(0.05, 4.0, 200)[:, None], np.asarray([0.25, 1.0, 6.0])
    for link in MEAN_LINKS:
        family = make(link=link)
        curvature = family.hessian(np.concatenate([-z, z]) if link == "log" else z, y)
        assert family.convex == bool((curvature >= 0.0).all()), link


def test_beyond_its_domain_a_loss_is_infinite():
    family = loss.Poisson(link="identity")
    value, gradient = family.value_and_gradient(np.asarray([-1.0, 0.0, 1.0]), np.ones(3))
    np.testing.assert_array_equal(value, [np.inf, np.inf, 1.0])
    assert np.isnan(gradient[:2]).all()
    with pytest.raises(ValueError, match="predictors above 0, and the first point has others"):
        agd.fit([[1.0], [2.0], [3.0]], [1, 2, 4], loss=family, intercept=False)
    begun = agd.fit([[1.0], [2.0], [3.0]], [1, 2, 4], loss=family, intercept=False, init=[1.0])
    np.testing.assert_allclose(begun.coef, 7.0 / 6.0)


def test_a_link_that_a_loss_has_not():
    with pytest.raises(
        ValueError, match="link must be one of 'logit', 'probit', 'cloglog'; got 'log'"
    ):
        loss.Logistic(link="log")
    with pytest.raises(ValueError, match="did you mean 'identity'"):
        loss.Poisson(link="identiy")
    with pytest.raises(TypeError, match="link must be a name"):
        loss.Gamma(link=None)


def test_the_normal_distribution_keeps_its_digits():
    x = np.asarray([0.0, 0.5, 1.0, 2.0, 2.6, 5.0, 10.0, 30.0])
    _, ratio, tail = normal_tail(-x)
    exact = [0.5 * math.erfc(t / math.sqrt(2.0)) for t in x]
    np.testing.assert_allclose(tail, exact, rtol=2e-13)
    np.testing.assert_allclose(normal_tail(np.asarray([1e8]))[1], 1e-8, rtol=1e-13)
    assert (np.diff(ratio) < 0.0).all()


def test_probabilities_neither_overflow_nor_cancel():
    z = np.asarray([-700.0, -40.0, 40.0, 700.0])
    probit = loss.Binomial(link="probit")
    np.testing.assert_allclose(probit.value(z, np.zeros(4))[2:], 0.5 * z[2:] ** 2, rtol=1e-2)
    np.testing.assert_allclose(probit.hessian(z, np.full(4, 0.5)), 0.5, rtol=1e-2)
    cloglog = loss.Binomial(link="cloglog")
    np.testing.assert_allclose(cloglog.value(z[:2], np.ones(2)), -z[:2])
    np.testing.assert_allclose(cloglog.gradient(z, np.ones(4)), [-1.0, -1.0, 0.0, 0.0])
    classes = loss.Logistic(link="cloglog").class_probabilities(np.asarray([-40.0, 3.0]))
    np.testing.assert_allclose(classes[:, 1], [math.exp(-40.0), 1.0], rtol=1e-8)
    np.testing.assert_allclose(classes[:, 0], [1.0, math.exp(-math.exp(3.0))], rtol=1e-8)
    assert as_link("probit", PROBABILITY_LINKS)(np.asarray(0.025)) == pytest.approx(
        -1.959963984540054
    )


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(3).uniform(size=(200, 2))


@pytest.mark.parametrize("link", MEAN_LINKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_fits_of_a_mean_are_those_of_statsmodels(name, link, rows):
    sm = pytest.importorskip("statsmodels.api")
    rng, eta = np.random.default_rng(1), rows @ [0.5, 0.3] + 1.0
    mean = as_link(link).inverse(eta)
    links = {
        "log": sm.families.links.Log(),
        "identity": sm.families.links.Identity(),
        "sqrt": sm.families.links.Sqrt(),
        "inverse": sm.families.links.InversePower(),
    }
    y, family = {
        "poisson": (rng.poisson(mean), sm.families.Poisson),
        "gamma": (rng.gamma(5.0, mean / 5.0), sm.families.Gamma),
        "inverse_gaussian": (rng.wald(mean, 9.0 * mean), sm.families.InverseGaussian),
        "tweedie": (rng.gamma(2.0, mean / 2.0), sm.families.Tweedie),
        "negative_binomial": (rng.poisson(mean * rng.gamma(2.0, 0.5, 200)), None),
        "squared_error": (mean + 0.05 * rng.normal(size=200), sm.families.Gaussian),
    }[name]
    parameters = {"var_power": 1.5} if name == "tweedie" else {}
    if family is None:
        family, parameters = sm.families.NegativeBinomial, {"alpha": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of links that are unusual for a family
        family = family(links[link], check_link=False, **parameters)
        model = sm.GLM(y, sm.add_constant(rows), family=family)
        reference = model.fit(tol=1e-12, maxiter=300).params
    result = agd.fit(rows, y, loss=FAMILIES[name](link=link))
    assert result.success
    np.testing.assert_allclose(
        np.append(result.intercept, result.coef), reference, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("link", PROBABILITY_LINKS)
def test_fits_of_a_probability_are_those_of_statsmodels(link, rows):
    sm = pytest.importorskip("statsmodels.api")
    rng, families = np.random.default_rng(1), sm.families
    links = {
        "logit": families.links.Logit(),
        "probit": families.links.Probit(),
        "cloglog": families.links.CLogLog(),
    }
    p = as_link(link, PROBABILITY_LINKS).inverse(rows @ [2.0, -1.0] - 0.5)
    count = rng.binomial(7, p)
    pairs = np.stack([count, 7 - count], axis=1)
    cases = [
        (loss.Logistic(link=link), (rng.random(200) < p).astype(float)),
        (loss.Binomial(link=link), rng.beta(5.0 * p, 5.0 * (1.0 - p))),
        (loss.Binomial(link=link, counts=True), pairs),
    ]
    for family, y in cases:
        model = sm.GLM(y, sm.add_constant(rows), family=families.Binomial(links[link]))
        result = agd.fit(rows, y, loss=family)
        np.testing.assert_allclose(
            np.append(result.intercept, result.coef), model.fit(tol=1e-12).params, rtol=1e-6
        )


@pytest.mark.parametrize("link", ["identity", "inverse"])
def test_links_in_streams_and_batches(link, rows):
    eta = rows @ [0.5, 0.3] + 1.0
    y = np.random.default_rng(1).gamma(5.0, as_link(link).inverse(eta) / 5.0)
    family = loss.Gamma(link=link)
    whole = agd.fit(rows, y, loss=family)
    stream = agd.fit(agd.Stream.from_arrays(rows, y, batch_rows=60), loss=family)
    np.testing.assert_allclose(stream.coef, whole.coef, rtol=1e-5)
    batch = agd.fit(np.stack([rows, rows]), np.stack([y, 2.0 * y]), loss=family)
    np.testing.assert_allclose(batch.coef[0], whole.coef, rtol=1e-5)


@pytest.mark.parametrize("link", PROBABILITY_LINKS)
def test_probabilities_in_every_library(link, rows, xp):
    p = as_link(link, PROBABILITY_LINKS).inverse(rows @ [2.0, -1.0] - 0.5)
    y = (np.random.default_rng(1).random(200) < p).astype(float)
    reference = agd.fit(rows, y, loss=loss.Logistic(link=link))
    result = agd.fit(xp.asarray(rows), xp.asarray(y), loss=loss.Logistic(link=link))
    tolerance = 1e-5 if "float64" in str(xp.dtype) else 5e-3
    np.testing.assert_allclose(xp.to_numpy(result.coef), reference.coef, rtol=tolerance)
    both = xp.to_numpy(result.predict_proba(xp.asarray(rows)))
    np.testing.assert_allclose(both.sum(axis=-1), 1.0, rtol=1e-6)
