"""Cross-validation of the strength of a penalty: scikit-learn's choice, folds by hand, every library alike."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, ElasticNet, GroupL1


def make_data(loss="squared_error", rows=150, columns=4):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(rows, columns)) * [1.0, 3.0, 0.5, 1.0]
    z = X @ [1.0, -0.3, 0.0, 0.2] - 0.3
    if loss == "log_loss":
        return X, (rng.random(rows) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    return X, z + rng.normal(size=rows)


def splits_of(rows, folds=4):
    number = np.random.default_rng(0).permutation(rows) % folds
    return [(np.flatnonzero(number != i), np.flatnonzero(number == i)) for i in range(folds)]


@pytest.mark.parametrize("penalty", [L1(), L2(), GroupL1(1.0, (0, 0, 1, 1))], ids=["L1", "L2", "G"])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_deviances_are_those_of_fits_without_the_fold(penalty, loss):
    X, y = make_data(loss)
    splits, alphas = splits_of(len(y)), [0.5, 0.05, 0.005]
    weight = np.random.default_rng(2).integers(1, 4, len(y)) * 1.0
    result = agd.cross_validate(
        X, y, penalty, alphas=alphas, folds=splits, loss=loss, sample_weight=weight
    )
    for fold, (train, test) in enumerate(splits):
        for i, alpha in enumerate(alphas):
            model = agd.fit(
                X[train], y[train], loss=loss, penalty=penalty.strengthened(alpha), sample_weight=weight[train]
            )  # fmt: skip
            z = model.decision_function(X[test])
            losses = model.loss.value(z, y[test])
            want = 2.0 * np.average(losses, weights=weight[test])
            assert result.deviances[fold, i] == pytest.approx(want, rel=1e-6)
    best = result.deviances.mean(axis=0).argmin()
    assert result.alpha == result.model.alpha == result.alphas[best]
    error = result.deviances.std(axis=0, ddof=1) / 2.0
    np.testing.assert_allclose(result.standard_error, error)
    whole = agd.fit(
        X, y, loss=loss, penalty=penalty.strengthened(result.alpha), sample_weight=weight
    )
    np.testing.assert_array_equal(result.model.coef, whole.coef)


def test_the_rule_of_one_standard_error_takes_the_largest_strength_within_it():
    X, y = make_data()
    least = agd.cross_validate(X, y, L1(), folds=5)
    simple = agd.cross_validate(X, y, L1(), folds=5, rule="1se")
    assert simple.alpha > least.alpha
    i, j = (int(np.flatnonzero(least.alphas == r.alpha)[0]) for r in (least, simple))
    limit = least.mean[i] + least.standard_error[i]
    assert least.mean[j] <= limit < least.mean[j - 1]


def test_scikit_learn_chooses_the_same():
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = make_data()
    splits = splits_of(len(y), 10)
    lasso = linear_model.LassoCV(alphas=60, cv=splits, tol=1e-8).fit(X, y)
    result = agd.cross_validate(X, y, L1(), alphas=60, folds=splits)
    assert result.alpha == pytest.approx(lasso.alpha_, rel=1e-12)
    np.testing.assert_allclose(result.deviances.T, lasso.mse_path_, rtol=1e-5)
    X, y = make_data("log_loss")
    strengths = np.logspace(-3, 2, 30)
    options = {"Cs": strengths, "cv": splits, "scoring": "neg_log_loss", "tol": 1e-8}
    options |= {"max_iter": 1000, "use_legacy_attributes": False}
    logistic = linear_model.LogisticRegressionCV(**options, l1_ratios=(0.0,)).fit(X, y)
    # The strength of scikit-learn's penalty is 1 / (C n), with the 135 rows of each fit.
    result = agd.cross_validate(
        X, y, L2(), alphas=1.0 / (strengths * 135.0), folds=splits, loss="log_loss"
    )
    assert result.alpha * 135.0 == pytest.approx(1.0 / float(np.ravel(logistic.C_)[0]), rel=1e-9)


def test_folds_have_the_shares_of_the_classes_and_come_from_the_seed():
    X, y = make_data("log_loss")
    y[:] = 0.0
    y[:10] = 1.0
    options = {"alphas": [0.1], "loss": "log_loss", "folds": 5}
    one = agd.cross_validate(X, y, L2(), **options)
    assert one.deviances.std() < 0.2  # two of the ten in each fold
    np.testing.assert_array_equal(
        one.deviances, agd.cross_validate(X, y, L2(), **options).deviances
    )
    other = agd.cross_validate(X, y, L2(), seed=1, **options)
    assert (one.deviances != other.deviances).all()


def test_every_library_sees_the_same_folds(xp):
    for loss in ("squared_error", "log_loss"):
        X, y = make_data(loss)
        options = {"alphas": [0.3, 0.03], "folds": 3, "loss": loss}
        host = agd.cross_validate(X, y, L2(), **options)
        result = agd.cross_validate(xp.asarray(X), xp.asarray(y), L2(), **options)
        tolerance = 1e-3 if xp.rtol > 1e-8 else 1e-6
        np.testing.assert_allclose(result.deviances, host.deviances, rtol=tolerance)
        assert result.model.coef.dtype == xp.dtype


def test_sparse_rows_labels_offsets_outputs_and_standard_units_are_validated():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y = make_data()
    options = {"alphas": [0.3, 0.03], "folds": 3, "standardize": True}
    dense = agd.cross_validate(X, y, ElasticNet(1.0, 0.5), **options)
    sparse = agd.cross_validate(scipy_sparse.csr_array(X), y, ElasticNet(1.0, 0.5), **options)
    np.testing.assert_allclose(sparse.deviances, dense.deviances, rtol=1e-8)
    units = [10.0, 0.1, 1.0, 5.0]
    scaled = agd.cross_validate(X * units, y, ElasticNet(1.0, 0.5), **options)
    np.testing.assert_allclose(scaled.deviances, dense.deviances, rtol=1e-8)
    moved = agd.cross_validate(X, y + X[:, 0], ElasticNet(1.0, 0.5), offset=X[:, 0], **options)
    np.testing.assert_allclose(moved.deviances, dense.deviances, rtol=1e-8)
    labels = np.asarray(["a", "b", "c"])[np.digitize(y, [-1.0, 1.0])]
    classes = agd.cross_validate(X, labels, L2(), loss="softmax", alphas=[0.1, 0.01])
    assert set(classes.model.predict(X)) == {"a", "b", "c"}
    assert classes.deviances.shape == (5, 2)


def test_fit_chooses_the_strength():
    X, y = make_data()
    chosen = agd.fit(X, y, penalty=L1(), alpha="cv")
    np.testing.assert_array_equal(chosen.coef, agd.cross_validate(X, y, L1()).model.coef)
    assert agd.fit(X, y, penalty=L1(), alpha="cv_1se").alpha > chosen.alpha
    assert chosen.penalty == L1(chosen.alpha)
    residual = y - chosen.predict(X)
    assert chosen.score() == pytest.approx(1.0 - residual.var() / y.var())
    bic = agd.fit(X, y, penalty=L1(), alpha="bic")
    np.testing.assert_array_equal(bic.coef, agd.penalty_path(X, y, L1()).select("bic").coef)
    with pytest.raises(
        ValueError, match="alpha must be one of 'cv', 'cv_1se', 'aic', 'bic', 'gcv'"
    ):
        agd.fit(X, y, penalty=L1(), alpha="loo")
    with pytest.raises(ValueError, match="alpha='cv' chooses among fits with default settings"):
        agd.fit(X, y, penalty=L1(), alpha="cv", method="fista")
    with pytest.raises(ValueError, match="penalty is missing"):
        agd.fit(X, y, alpha="cv")


def test_folds_that_cannot_be_are_named():
    X, y = make_data()
    cases = (
        ({"folds": 1}, "folds must be 2 or more, got 1"),
        ({"folds": 151}, "folds must be at most the number of rows, 150, got 151"),
        ({"folds": [([0, 1], [150])]}, r"pairs \(train, test\) of row numbers below 150; pair 0"),
        ({"folds": [([0, 1], np.zeros(0, int))]}, "pair 0 has none of one"),
        ({"rule": "max"}, "rule must be one of 'min', '1se'; got 'max'"),
    )
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            agd.cross_validate(X, y, L1(), **options)
    labels = np.zeros(150)
    labels[3] = 1.0
    with pytest.raises(ValueError, match="y must have 2 rows or more of each class"):
        agd.cross_validate(X, labels, L2(), loss="log_loss")
    with pytest.raises(ValueError, match="needs X to say how many rows it has"):
        agd.cross_validate(agd.Stream([(X, y)]), penalty=L1())
    with pytest.raises(ValueError, match="cross-validation is of one problem"):
        agd.cross_validate(X, np.column_stack([y, y]), L1())


def test_it_says_what_it_chose():
    X, y = make_data()
    text = repr(agd.cross_validate(X, y, L1(), alphas=[0.1, 0.01], folds=3))
    assert text.startswith("CrossValidation of 2 strengths in 3 folds: alpha 0.01, mean deviance")
