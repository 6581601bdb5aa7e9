"""`agd.save` and `agd.load`: every bit of a model, for every loss and penalty; old files, and damaged ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

import agd
from agd.loss import L1, L2, Binomial, GroupL1, NonNegative
from helpers.known_values import LOSSES, PENALTIES

OLD_FILE = """{
  "format": "agd-model", "version": 1, "agd": "0.1.0", "target": "price", "features": ["rooms", "area"],
  "coefficients": [1.8432432432432435, 0.009009009009008998], "intercept": 0.8378378378378373,
  "loss": {"name": "huber", "delta": 1.35}, "penalty": {"name": "l2", "alpha": 0.1}, "classes": null,
  "fit": {"method": "L-BFGS", "status": "CONVERGED", "steps": 7, "loss": 0.125, "rows": 5}
}"""
OLD_CLASSES = """{
  "format": "agd-model", "version": 1, "agd": "0.2.0.dev0", "target": "y", "features": ["a", "b"],
  "coefficients": [[0.5, 1.0], [-0.5, 0.0], [0.0, -1.0]], "intercept": [0.25, 0.0, -0.25],
  "loss": {"name": "softmax", "classes": 3}, "penalty": null, "classes": ["no", "perhaps", "yes"],
  "fit": {"method": "Newton", "status": "MAX_ITER", "converged": false, "steps": 3, "loss": 0.5, "rows": 9}
}"""


def made(n=40, p=3):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    return X, X @ np.arange(1.0, p + 1.0) / 7.0 + rng.normal(size=n) / 3.0


def targets(case, n):
    """Return targets of a loss's domain, each of its values many times."""
    return np.resize(np.asarray(case.targets, dtype=float), n)


def assert_same(loaded, result):
    for name in ("coef", "intercept"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(result, name))
        assert getattr(loaded, name).dtype == getattr(result, name).dtype
    np.testing.assert_array_equal(loaded.jac.coef, result.jac.coef)
    np.testing.assert_array_equal(loaded.fun, result.fun)
    np.testing.assert_array_equal(loaded.nit, result.nit)
    np.testing.assert_array_equal(loaded.status, result.status)
    np.testing.assert_array_equal(loaded.grad_norm, result.grad_norm)
    for name in (
        "message",
        "method",
        "classes",
        "feature_names",
        "targets",
        "label_dtype",
        "solver",
        "penalty",
    ):
        assert getattr(loaded, name) == getattr(result, name), name
    assert loaded.loss == result.loss
    assert np.all(loaded.success == result.success)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_read_back_with_every_bit(name, tmp_path):
    case = LOSSES[name]
    X, _ = made()
    y = targets(case, len(X))
    if case.loss.counts:
        y = np.column_stack([np.round(9.0 * y), np.full(len(y), 3.0)])
    result = agd.fit(X, y, loss=case.loss, penalty=L2(0.1))
    agd.save(result, tmp_path / "m.json")
    loaded = agd.load(tmp_path / "m.json")
    assert_same(loaded, result)
    np.testing.assert_array_equal(loaded.predict(X), result.predict(X))


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_is_read_back(name, tmp_path):
    penalty = PENALTIES[name].penalty
    if penalty.couples_targets:
        pytest.skip("no linear model has it")
    X, y = made(p=len(PENALTIES[name].w))
    result = agd.fit(X, y, penalty=penalty)
    result.save(tmp_path / "m.json")
    assert repr(agd.load(str(tmp_path / "m.json")).penalty) == repr(penalty)


@pytest.mark.parametrize(
    "penalty",
    [
        L1(0.1) + L2(0.01),
        GroupL1(0.1, groups=(0, 0, 1)) + L1(0.2),
        NonNegative(),
        L1(0.1, weights=[1.0, 0.0, 2.0]),
    ],
    ids=str,
)
def test_sums_and_arrays_of_penalties_are_read_back(penalty, tmp_path):
    result = agd.fit(*made(), penalty=penalty)
    result.save(tmp_path / "m.json")
    loaded = agd.load(tmp_path / "m.json")
    assert loaded.penalty == penalty
    assert_same(loaded, result)
    with pytest.raises(ValueError, match="a penalised fit is biased"):
        loaded.cov(*made())


def test_batches_targets_and_classes_are_read_back(tmp_path):
    X, y = made()
    text = np.where(y > 0.3, "yes", np.where(y > -0.3, "perhaps", "no"))
    fits = {
        "batch": agd.fit(np.stack([X, 2.0 * X]), np.stack([y, -y])),
        "targets": agd.fit(X, np.column_stack([y, -y, 3.0 * y])),
        "one target": agd.fit(X, y[:, None]),
        "softmax": agd.fit(X, text, loss="softmax", penalty=L2(0.1)),
        "text": agd.fit(X, np.where(y > 0, "b", "a"), loss="log_loss", penalty=L2(0.1)),
        "integers": agd.fit(X, np.where(y > 0, 7, -2), loss="log_loss", penalty=L2(0.1)),
        "booleans": agd.fit(X, y > 0, loss="log_loss", penalty=L2(0.1)),
        "counts": agd.fit(
            X, np.column_stack([np.round(y**2), 3.0 + 0.0 * y]), loss=Binomial(counts=True)
        ),
        "no intercept": agd.fit(X, y, intercept=False),
    }
    for name, result in fits.items():
        result.save(tmp_path / "m.json")
        loaded = agd.load(tmp_path / "m.json")
        if result.intercept is None:
            assert loaded.intercept is None
        else:
            assert_same(loaded, result)
        predicted = loaded.predict(X)
        np.testing.assert_array_equal(predicted, result.predict(X), err_msg=name)
        assert predicted.dtype == result.predict(X).dtype
        assert "converged" in repr(loaded)


def test_a_model_moves_between_libraries(xp, tmp_path):
    X, y = made()
    result = agd.fit(xp.asarray(X), xp.asarray(y))
    result.save(tmp_path / "m.json")
    loaded = agd.load(tmp_path / "m.json")
    np.testing.assert_array_equal(loaded.coef, xp.to_numpy(result.coef))
    assert loaded.coef.dtype == xp.host_dtype
    back = agd.load(tmp_path / "m.json", backend=xp.name.replace(":readonly", ""))
    assert type(back.coef) is type(result.coef)
    assert back.coef.dtype == result.coef.dtype
    np.testing.assert_array_equal(xp.to_numpy(back.coef), xp.to_numpy(result.coef))
    predicted = xp.to_numpy(back.predict(xp.asarray(X)))
    np.testing.assert_allclose(predicted, xp.to_numpy(result.predict(xp.asarray(X))), rtol=1e-12)


def test_a_loaded_model_has_standard_errors_beside_its_data(tmp_path):
    X, y = made()
    result = agd.fit(X, y)
    result.save(tmp_path / "m.json")
    loaded = agd.load(tmp_path / "m.json")
    with pytest.raises(ValueError, match="X and y are missing"):
        loaded.summary()
    np.testing.assert_array_equal(loaded.with_data(X, y).std_error, result.std_error)


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(OLD_FILE)
    loaded = agd.load(path)
    assert loaded.loss == agd.loss.Huber(1.35)
    assert loaded.penalty == L2(0.1)
    assert loaded.feature_names == ["rooms", "area"]
    assert loaded.success
    assert (loaded.nit, loaded.fun, loaded.status) == (7, 0.125, agd.Status.CONVERGED)
    np.testing.assert_allclose(loaded.predict([[1.0, 2.0]]), [2.6990990990990987], rtol=1e-15)
    assert loaded.message.startswith("converged")
    path.write_text(OLD_CLASSES)
    loaded = agd.load(path)
    np.testing.assert_array_equal(loaded.predict([[3.0, 0.0], [0.0, -9.0]]), ["no", "yes"])
    assert not loaded.success
    loaded.save(path)
    assert json.loads(path.read_text())["version"] == 2
    np.testing.assert_array_equal(agd.load(path).coef, loaded.coef)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "is a model of version 3"),
        ({"format": "other"}, "is not an agd model"),
        ({"coefficients": [[1.0, 2.0, 3.0], [1.0, 2.0]]}, "lists of the same lengths"),
        ({"coefficients": []}, "lists of the same lengths"),
        ({"coefficients": 3.0}, "must be those of the same problems"),
        ({"coefficients": [1.0, None, 2.0]}, "must be finite numbers"),
        ({"intercept": [1.0, 2.0]}, "must be those of the same problems"),
        ({"dtype": "object"}, "dtype must be one of"),
        ({"dtype": "float16", "coefficients": [1e6, 1.0, 1.0]}, "finite numbers of float16"),
        ({"label_dtype": "S3"}, "label_dtype must be a type of integers"),
        ({"targets": 2}, "must be those of 2 targets"),
        ({"alpha": "x"}, "alpha must be a number"),
        ({"penalty": {"name": "l9"}}, "penalty .* is unknown"),
        ({"penalty": {"name": "l1", "alpha": -1.0}}, "penalty .* is unknown"),
        ({"penalty": {"name": "sum", "terms": [None]}}, "penalty .* is unknown"),
        ({"penalty": [1]}, "penalty .* is unknown"),
        ({"fit": {"status": "SPLENDID"}}, "status must be one of"),
        ({"fit": {"status": ["CONVERGED", "CONVERGED"]}}, "reshape|status"),
        ({"fit": {"loss": "x"}}, "loss must be a number"),
    ],
    ids=str,
)
def test_what_no_fit_writes_is_refused_in_one_line(change, words, tmp_path):
    path = tmp_path / "m.json"
    agd.fit(*made()).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=words) as caught:
        agd.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_named(tmp_path):
    path = tmp_path / "m.json"
    with pytest.raises(ValueError, match="No such file"):
        agd.load(path)
    agd.fit(*made()).save(path)
    whole = path.read_bytes()
    for part in (b"", whole[:100], b"\x80" + whole, b"[" * 100_000, b'{"a": ' * 5000):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="is not an agd model"):
            agd.load(path)
    deep = json.loads(whole) | {"coefficients": json.loads("[" * 300 + "1.0" + "]" * 300)}
    path.write_text(json.dumps(deep))
    with pytest.raises(ValueError, match=r"m\.json"):
        agd.load(path)


def test_what_a_file_cannot_hold_is_refused_before_it_is_written(tmp_path):
    class LogCosh(agd.loss.BaseLoss):
        curvature_bound = 1.0

        def value(self, z, y):
            return np.log(np.cosh(z - y))

        def gradient(self, z, y):
            return np.tanh(z - y)

    class Halved(L2):
        pass

    path = tmp_path / "m.json"
    with pytest.raises(TypeError, match="a file holds no code"):
        agd.fit(*made(), loss=LogCosh()).save(path)
    with pytest.raises(TypeError, match="a file holds no code"):
        agd.fit(*made(), penalty=Halved(0.1)).save(path)
    assert not path.exists()


def test_the_command_line_reads_what_the_library_wrote(cli, small, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("typer")
    table = pandas.read_csv(small)
    path = tmp_path / "m.json"
    result = agd.fit(table[["rooms", "area"]], table["price"])
    result.save(path)
    code, out, _ = cli("predict", path, small)
    assert code == 0
    predicted = [float(line) for line in out.splitlines()[1:]]
    np.testing.assert_allclose(predicted, result.predict(table[["rooms", "area"]]), rtol=1e-14)
    cli("fit", small, "--target", "price", "--save", path)
    loaded = agd.load(path)
    np.testing.assert_allclose(loaded.coef, result.coef, rtol=1e-9)
    agd.fit(table[["rooms", "area"]].to_numpy(), table["price"]).save(path)
    code, _, err = cli("predict", path, small)
    assert code == 2
    assert "whose columns have names" in err
