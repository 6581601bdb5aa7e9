"""Every public object can be pickled and deep-copied, so that fits can be sent to other processes."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import agd
from agd import update
from agd.update.rule import Rule
from helpers.known_values import LOSSES, PENALTIES, RULES, SCHEDULES

X = np.random.default_rng(0).normal(size=(30, 2))
Y = X[:, 0] + 0.1 * X[:, 1]


def copies(value: Any) -> list[Any]:
    return [pickle.loads(pickle.dumps(value)), copy.deepcopy(value)]  # noqa: S301 - written here


def modules() -> list[ModuleType]:
    """Return the package and its rooms, and their modules, but for the command line and what is private."""
    names = [room.name for room in pkgutil.walk_packages(agd.__path__, "agd.")]
    public = [name for name in names if "._" not in name and not name.startswith("agd.cli")]
    return [agd, *map(importlib.import_module, public)]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_every_public_name_can_be_pickled_and_copied(module):
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if not isinstance(value, ModuleType):
            copies(value)


RULES_OF_RULES = {
    "chain": lambda: update.chain(update.clip_by_global_norm(1.0), update.adam(0.1)),
    "masked": lambda: update.masked(update.adam(0.1), {"w": True, "b": False}),
    "multi_transform": lambda: update.multi_transform(
        {"a": update.adam(0.1), "b": update.gradient_descent(0.1)}, {"w": "a", "b": "b"}
    ),
    "accumulate": lambda: update.accumulate(update.adam(0.1), 2),
    "injected": lambda: update.inject_hyperparams(update.adam)(0.1, b1=0.8),
    "scheduled": lambda: update.adam(SCHEDULES["exponential"].schedule),
    **{name: (lambda case=case, name=name: made_rule(name, case)) for name, case in RULES.items()},
}


def made_rule(name: str, case: Any) -> Rule:
    return getattr(update, name)(**case.kwargs)


@pytest.mark.parametrize("make", RULES_OF_RULES.values(), ids=RULES_OF_RULES)
def test_a_copied_rule_takes_the_same_steps(make):
    rule, params = make(), {"w": np.asarray([1.0, 2.0]), "b": np.asarray([3.0])}
    state = rule.init(params)
    want, _ = rule.update(params, state, params)
    for again in copies(rule):
        got, _ = again.update(params, again.init(params), params)
        for name in params:
            np.testing.assert_array_equal(got[name], want[name])
        assert repr(again) == repr(rule)


def test_losses_penalties_and_schedules_are_equal_to_their_copies():
    cases = [case.loss for case in LOSSES.values()]
    cases += [case.penalty for case in PENALTIES.values()]
    cases += [case.schedule for case in SCHEDULES.values()]
    for value in cases:
        for again in copies(value):
            assert type(again) is type(value)
            assert repr(again) == repr(value)


@pytest.mark.parametrize("name", update.MINIMIZERS)
def test_methods_can_be_copied(name):
    method = update.MINIMIZERS[name]()
    for again in copies(method):
        assert type(again) is type(method)


RESULTS = {
    "fit": lambda: agd.fit(X, Y),
    "classes": lambda: agd.fit(X, Y > 0.0, loss="log_loss", penalty=agd.loss.L2(0.1)),
    "rule": lambda: agd.fit(X, Y, method=update.gradient_descent(0.1)),
    "minimize": lambda: agd.minimize(lambda x: (x**2).sum(), np.ones(2)),
    "path": lambda: agd.path(X, Y, epochs=[1, 5]),
    "online": lambda: agd.Online("poisson").partial_fit(X, np.abs(Y)),
    "criteria": lambda: agd.GradTol(1e-8) & agd.ValueTol(1e-8) | agd.Deadline(seconds=1.0),
    "selection": lambda: agd.backends.select("numpy"),
    "row": lambda: agd.backends.TABLE[0],
}


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_results_models_and_criteria_can_be_copied(make):
    value = make()
    for again in copies(value):
        assert type(again) is type(value)
        assert repr(again) == repr(value)
    if isinstance(value, agd.FitResult):
        np.testing.assert_array_equal(copies(value)[0].predict(X), value.predict(X))


def test_a_row_of_the_table_is_itself():
    for row in agd.backends.TABLE:
        assert all(again is row for again in copies(row))


def test_streams_can_be_copied(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.csv"
    np.savetxt(path, np.c_[X, Y], delimiter=",", header="a,b,y", comments="")
    want = agd.fit(X, Y).coef
    for stream in (
        agd.Stream([(X[:20], Y[:20]), (X[20:], Y[20:])]),
        agd.Stream.from_arrays(X, Y, batch_rows=7),
        agd.Stream.from_arrays(X, Y, batch_rows=7, device="numpy"),
        agd.Stream.from_files(path, "y", batch_rows=7),
    ):
        for again in copies(stream):
            assert again.columns == stream.columns
            np.testing.assert_allclose(agd.fit(again).coef, want, rtol=1e-8)


def test_fits_run_in_other_processes(tmp_path):
    context = multiprocessing.get_context("spawn")
    arguments = [
        {"penalty": agd.loss.L1(0.01)},
        {"loss": agd.loss.Huber(1.0), "stop": agd.Stop(max_iter=50)},
        {"method": update.chain(update.clip_by_global_norm(1.0), update.gradient_descent(0.5))},
    ]
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = [pool.submit(agd.fit, X, Y, **kwargs) for kwargs in arguments]
        for future, kwargs in zip(found, arguments, strict=True):
            here = agd.fit(X, Y, **kwargs)
            np.testing.assert_array_equal(future.result().coef, here.coef)
