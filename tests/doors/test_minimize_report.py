"""What `agd.minimize` tells of a run: its reads from the device, its history, its table."""

from __future__ import annotations

import numpy as np
import pytest

import agd
from agd import Stop, backends
from helpers import known_minima
from helpers.quadratic_bowl import bowl, bowl_gradient, tree_bowl, tree_bowl_gradient

# What brings a value to the host, and is no door for whole arrays.
READS = ("__bool__", "__float__", "__int__", "__index__")


RUNS = {
    "lbfgs": {"jac": bowl_gradient},
    "cg": {"jac": bowl_gradient, "method": "cg"},
    "accelerated": {"jac": bowl_gradient, "method": "accelerated"},
    "2-point": {"jac": "2-point"},
    "bounds": {"jac": bowl_gradient, "bounds": [(-1.0, 2.0), (None, 9.0)]},
    "penalty": {"jac": bowl_gradient, "penalty": agd.loss.L1(0.5)},
    "leaves": {"jac": bowl_gradient, "stop": Stop(when=agd.GradTol(1e-6) | agd.MaxIter(40))},
}


def hold_to_the_budget(make, counts, name, check_every):
    """One read of the point, one at the start, and one for every `check_every` steps.

    A method that decides on the host reads each evaluation, and a look then costs nothing but where the
    leaves are told apart; within bounds it reads the direction that the bounds leave, too.
    """
    settings = dict(RUNS[name])
    given = settings.pop("stop", None)
    stop = Stop(check_every=check_every, when=None if given is None else given.when)
    x0 = make(np.asarray([0.0, 5.0]))
    before = dict(counts)
    found = agd.minimize(bowl, x0, stop=stop, **settings)
    assert found.success
    assert counts["other"] == before["other"]
    assert counts["move"] - before["move"] == found.n_sync
    if name == "bounds":
        assert found.n_sync <= 2 * found.njev + 3
    elif found.method.startswith(("L-BFGS", "conjugate", "accelerated gradient")):
        looks = len(found.history.nit) if name == "leaves" else 0
        assert found.n_sync <= found.njev + 3 + looks
    else:
        assert found.n_sync <= 2 + -(-(found.njev - 1) // check_every)


@pytest.mark.parametrize("check_every", [1, 10, 50])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.backend("strict")
def test_strict_arrays_are_read_once_a_look(name, check_every, reads):
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    counts = reads(type(strict.asarray(0.0)), ("to_device",), READS)
    hold_to_the_budget(lambda x: strict.asarray(x, device=device), counts, name, check_every)


@pytest.mark.parametrize("check_every", [1, 10])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.backend("torch")
def test_torch_tensors_are_read_once_a_look(name, check_every, reads):
    torch = pytest.importorskip("torch")
    hold_to_the_budget(
        torch.asarray,
        reads(torch.Tensor, ("cpu",), (*READS, "item", "tolist", "__array__")),
        name,
        check_every,
    )


def test_a_look_is_for_all_problems_and_leaves(xp):
    """However many there are: the budget is that of one."""
    x0 = {"a": xp.asarray(np.zeros((3, 2))), "b": xp.asarray(np.ones(3))}

    def fun(p):
        xp = backends.namespace(p["a"])
        return xp.sum((p["a"] - 3.0) ** 2, axis=-1) + (p["b"] - 3.0) ** 2

    stop = Stop(check_every=5, max_iter=20)
    found = agd.minimize(fun, x0, jac=tree_bowl_gradient, method="accelerated", batch=1, stop=stop)
    assert found.n_sync <= int(found.njev.max()) + 3


def test_the_default_is_a_look_a_step_where_looks_are_free(xp):
    x0 = xp.asarray([0.0, 5.0])
    found = agd.minimize(bowl, x0, jac=bowl_gradient, method=agd.update.adam(0.5))
    every = 1 if backends.of(found.x).host_accessible else 10
    assert (every == 1) == xp.name.startswith("numpy")
    assert (np.diff(found.history.nit) == every).all()
    # What decides on the host is known there after every step.
    searched = agd.minimize(bowl, x0, jac=bowl_gradient, method="accelerated")
    assert (np.diff(searched.history.nit) == 1).all()


# -- the history ----------------------------------------------------------------------------------


def test_the_history_has_a_row_for_each_look(xp):
    x0 = xp.asarray([0.0, 5.0])
    stop = Stop(check_every=1)
    found = agd.minimize(bowl, x0, jac=bowl_gradient, method="steepest_descent", stop=stop)
    history = found.history
    assert history._fields == ("nit", "value", "grad_norm", "step", "nfev")
    assert all(isinstance(column, np.ndarray) for column in history)
    assert {len(column) for column in history} == {len(history.nit)}
    assert history.value[0] == pytest.approx(13.0)
    assert history.grad_norm[0] == pytest.approx(6.0)
    assert (history.nit[0], history.nfev[0], history.step[0]) == (0, 1, 0.0)
    assert (history.nit[-1], history.value[-1]) == (found.nit, found.fun)
    assert history.grad_norm[-1] == found.grad_norm
    assert history.nfev[-1] == found.nfev
    assert (np.diff(history.nit) == 1).all()
    assert (np.diff(history.nfev) >= 1).all()
    assert (np.diff(history.value) <= 0.0).all()
    assert (history.step[1:] > 0.0).all()


# -- the table ------------------------------------------------------------------------------------


def test_a_result_prints_as_a_table_and_in_a_notebook(xp):
    found = agd.minimize(
        tree_bowl,
        {"w": xp.asarray([0.0, 5.0]), "b": xp.asarray(1.0)},
        jac=tree_bowl_gradient,
        method="accelerated",
    )
    lines = repr(found).splitlines()
    told = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    assert told["message"].startswith("converged (after")
    assert told["status"] == "0 (CONVERGED)"
    assert told["gradient"] == "jac"
    assert told["nit"] == str(found.nit)
    assert told["history"] == f"{len(found.history.nit)} observations"
    assert {"x['w']", "x['b']", "jac['w']", "fun", "nfev", "njev", "n_sync", "method"} <= set(told)
    assert len(lines) < 25
    html = found._repr_html_()
    assert html.startswith("<table>")
    for name, text in told.items():
        assert name.replace("'", "&#x27;") in html
        assert text.replace("'", "&#x27;").replace("<", "&lt;") in html


def test_messages_speak_of_x0():
    short = agd.minimize(
        known_minima.rosenbrock,
        [-1.2, 1.0],
        jac=known_minima.rosenbrock_grad,
        stop=Stop(max_iter=2),
    )
    assert "start from this result (x0=)" in short.message
    assert "init=" not in short.message
    again = agd.minimize(known_minima.rosenbrock, short.x, jac=known_minima.rosenbrock_grad)
    np.testing.assert_allclose(again.x, 1.0, atol=1e-4)
    text = repr(short)
    assert "1 (MAX_ITER)" in text
