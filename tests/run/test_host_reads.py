"""No hidden host reads: a fit reads from the device as often as its result says, and never past the door."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import agd
from agd import backends
from helpers.host_reads import WATCHED_DEVICES, ignore_convergence_warnings, watch

__all__ = ["ignore_convergence_warnings", "watch"]

pytestmark = pytest.mark.usefixtures("ignore_convergence_warnings")

each_device = pytest.mark.parametrize("spec", WATCHED_DEVICES.values())

FEW = agd.Stop(max_iter=12, check_every=5)
LOOKED_AT = agd.Stop(max_iter=12, check_every=1)
FITS = {
    "squared": {},
    "squared, no intercept": {"intercept": False},
    "squared, weights": {"sample_weight": True},
    "ridge": {"penalty": agd.loss.L2(0.1)},
    "lasso": {"penalty": agd.loss.L1(0.1)},
    "elastic net": {"penalty": agd.loss.ElasticNet(0.1, 0.5)},
    "groups": {"penalty": agd.loss.GroupL1(0.1, (0, 0, 1, 1))},
    "non-negative": {"penalty": agd.loss.NonNegative()},
    "simplex": {"penalty": agd.loss.Simplex(1.0)},
    "box": {"penalty": agd.loss.Box(-0.5, 0.5), "loss": "huber"},
    "ball": {"penalty": agd.loss.L2Ball(1.0), "loss": "huber"},
    "huber": {"loss": "huber"},
    "huber, weights": {"loss": "huber", "sample_weight": True},
    "huber, lasso": {"loss": "huber", "penalty": agd.loss.L1(0.1)},
    "logistic": {"loss": "log_loss"},
    "logistic, ridge": {"loss": "log_loss", "penalty": agd.loss.L2(0.1)},
    "poisson": {"loss": "poisson"},
    "several targets": {"targets": 3},
    "several targets, huber": {"targets": 3, "loss": "huber"},
    "problems": {"problems": 4},
    "problems, logistic": {"problems": 4, "loss": "log_loss"},
    "problems, lasso": {"problems": 4, "penalty": agd.loss.L1(0.1)},
    "wide": {"columns": 60, "penalty": agd.loss.L2(0.1), "method": "cg"},
    "stopped": {"stop": FEW},
    "stopped, huber": {"stop": LOOKED_AT, "loss": "huber"},
    "criteria": {"stop": agd.GradTol(1e-6) & agd.ValueTol(1e-6) | agd.MaxIter(9), "loss": "huber"},
    "gcv": {"method": "gd", "stop": "gcv"},
    "gd, poisson": {"method": "gd", "loss": "poisson", "stop": FEW},
    "gd, diverging": {"method": agd.update.gradient_descent(1e9)},
    "gd, problems": {"method": "gd", "problems": 4},
    "auto, large": {"size": 1e200},
    "huber, large": {"size": 1e200, "loss": "huber"},
    "dependent": {"size": 0.0},
    "dependent, huber": {"size": 0.0, "loss": "huber"},
    **{
        f"{name}, {loss}": {"method": name, "loss": loss, "stop": FEW}
        for name in sorted({*agd.update.METHODS, *agd.update.MINIMIZERS} - {"auto"})
        for loss in ("squared_error", "huber")
    },
    "sgd": {"method": agd.update.sgd(batch_size=8), "stop": FEW},
    "sgd, logistic": {"method": agd.update.sgd(batch_size=8), "loss": "log_loss", "stop": FEW},
    "svrg": {"method": agd.update.SVRG(batch_size=8), "loss": "log_loss", "stop": FEW},
    "clipped": {
        "method": agd.update.chain(agd.update.clip_by_global_norm(1.0), agd.update.adam(0.1)),
        "loss": "huber", "stop": FEW,
    },
}  # fmt: skip


# Every method is compiled on JAX, which takes seconds: these stand for all.
COMPILED = {
    "squared", "lasso", "huber", "logistic, ridge", "several targets", "problems", "gcv", "dependent",
    "gd, poisson", "sgd, logistic", "lbfgs, huber", "adam, huber",
}  # fmt: skip


def arrays(spec, loss="squared_error", targets=0, problems=0, columns=4, size=1.0, weighted=False):
    """Return X, y and weights that a device holds."""
    if spec == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    shape = (problems, 40) if problems else (40,)
    X = rng.normal(size=(*shape, columns)) * np.geomspace(0.3, 3.0, columns) + 0.5
    z = X @ np.linspace(-0.5, 0.5, columns) + 0.3 * rng.normal(size=shape)
    y = {"log_loss": z > 0.0, "poisson": np.floor(np.exp(np.clip(z, None, 2.0)))}.get(loss, z)
    X[..., 0] *= size
    if targets:
        y = np.stack([y * (k + 1.0) + rng.normal(size=shape) for k in range(targets)], axis=-1)
    where = backends.select(spec)
    weight = where.asarray(rng.uniform(0.5, 1.5, size=40)) if weighted else None
    return where.asarray(X), where.asarray(y.astype(float)), weight


@each_device
@pytest.mark.parametrize("name", FITS)
def test_a_fit_reads_as_often_as_it_says(spec, name, watch):
    if spec == "jax" and name not in COMPILED:
        pytest.skip("every method is compiled: some stand for all")
    options = dict(FITS[name])
    made = {
        key: options.pop(key)
        for key in ("targets", "problems", "columns", "size")
        if key in options
    }
    weighted = options.pop("sample_weight", False)
    X, y, weight = arrays(spec, options.get("loss", "squared_error"), weighted=weighted, **made)
    seen = watch(X)
    found = agd.fit(X, y, sample_weight=weight, **options)
    assert seen.past == []
    assert seen.door == found.n_sync > 0


def bowl(x):
    return 0.5 * ((x[..., 0] - 1.0) ** 2 + 10.0 * (x[..., 1] + 2.0) ** 2)


def slope(x):
    return backends.namespace(x).stack([x[..., 0] - 1.0, 10.0 * (x[..., 1] + 2.0)], axis=-1)


MINIMA = {
    "lbfgs": {},
    "cg": {"method": "cg"},
    "gd": {"method": "gd", "stop": FEW},
    "adam": {"method": agd.update.adam(0.1), "stop": FEW},
    "differences": {"jac": "2-point"},
    "bounds": {"bounds": [(-1.0, 0.5), (None, 9.0)]},
    "penalty": {"penalty": agd.loss.L1(0.5)},
    "perturbed": {"method": "perturbed", "stop": FEW},
    "problems": {"batch": 1},
}


@each_device
@pytest.mark.parametrize("name", MINIMA)
def test_a_minimum_is_read_as_often_as_it_says(spec, name, watch):
    options = {"jac": slope, **MINIMA[name]}
    arrays(spec)  # allows double precision
    start = np.zeros((3, 2)) if "batch" in options else np.zeros(2)
    x0 = backends.select(spec).asarray(start)
    seen = watch(x0)
    found = agd.minimize(bowl, x0, **options)
    assert seen.past == []
    assert seen.door == found.n_sync > 0


def test_the_watch_sees_what_goes_past_the_door(watch):
    torch = pytest.importorskip("torch")
    x = torch.asarray([1.0, -2.0])
    seen = watch(x)
    for read in (lambda: float(x[0]), lambda: bool(x[0] > 0.0), lambda: x[x > 0.0], x.tolist,
                 lambda: torch.nonzero(x), lambda: torch.asarray(3.0), x.numpy):  # fmt: skip
        before = len(seen.past)
        read()
        assert len(seen.past) > before
    before = len(seen.past)
    backends.to_numpy(x)
    backends.of(x).convert(torch, np.ones(2), None, x.device)
    x[x > 0.0] = 3.0  # filled with one number: no one counts them
    assert (seen.door, len(seen.past)) == (1, before)


def test_limits_are_kept_as_the_namespace_keeps_them(xp):
    values = np.asarray([[-2.0, 0.5, np.nan], [3.0, -np.inf, np.inf]])
    x, low, high = xp.asarray(values), xp.asarray([-1.0, 0.0, 1.0]), xp.asarray([2.0, 0.25, 5.0])
    host = np.asarray([-1.0, 0.0, 1.0]), np.asarray([2.0, 0.25, 5.0])
    clips = [backends.clip] if xp.name.startswith("torch") else [backends.clip, _cupys_clip]
    for clip in clips:
        for (a, b), (p, q) in zip(
            [(low, high), (None, high), (low, None), (-1.0, 1.0)],
            [host, (None, host[1]), (host[0], None), (-1.0, 1.0)],
            strict=True,
        ):
            found = clip(x, a, b)
            assert found.dtype == x.dtype
            np.testing.assert_array_equal(xp.to_numpy(found), np.clip(values, p, q))


def _cupys_clip(x, low, high):
    return next(row for row in backends.TABLE if row.name == "cupy").clip(x, low, high)


def test_no_module_asks_a_namespace_for_what_it_clips():
    for path in Path(agd.__file__).parent.rglob("*.py"):
        if path.parent.name == "backends":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = isinstance(node, ast.Attribute) and node.attr == "clip"
            assert not asked or ast.unparse(node.value) in {"np", "backends"}, (path, node.lineno)


@pytest.mark.backend("torch")
def test_host_numbers_go_to_a_device_of_torch_without_a_wait():
    torch = pytest.importorskip("torch")
    row = backends.of(torch.zeros(1))
    there = row.convert(
        backends.namespace(torch.zeros(1)), np.ones((2, 3)), torch.float32, torch.device("meta")
    )
    assert (there.device.type, there.dtype, tuple(there.shape)) == ("meta", torch.float32, (2, 3))


STREAMS = {
    "squared": {},
    "huber": {"loss": "huber"},
    "logistic": {"loss": "log_loss"},
    "lasso": {"penalty": agd.loss.L1(0.1)},
    "gd": {"method": "gd", "stop": FEW},
    "adam": {"method": agd.update.adam(0.1), "loss": "huber", "stop": FEW},
}


@each_device
@pytest.mark.parametrize("name", STREAMS)
def test_batches_that_go_to_a_device_are_read_as_often_as_it_says(spec, name, watch):
    if spec == "jax" and name not in {"squared", "huber"}:
        pytest.skip("every method is compiled: some stand for all")
    options = dict(STREAMS[name])
    host = [backends.to_numpy(part) for part in arrays(spec, options.get("loss", ""))[:2]]
    stream = agd.Stream.from_arrays(*host, device=spec, batch_rows=16)
    seen = watch(stream.resident)
    found = agd.fit(stream, **options)
    assert seen.past == []
    assert seen.door == found.n_sync > 0
