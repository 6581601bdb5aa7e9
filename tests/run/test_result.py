"""What a result shows, and what its certificate knows."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import agd
from agd import GradTol, MaxIter, Stop
from agd.gradient import LinearObjective
from agd.run import Certificate, predicted_contraction, run
from agd.update import Descent, gradient_descent


def made(n=60, p=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.linspace(1.0, 3.0, p) + 0.5
    return X, X @ np.arange(1.0, p + 1) + 2.0 + rng.normal(size=n)


def quadratic(X, weight=None, intercept=True, alpha=0.0):
    """Return the Hessian of the mean squared loss by the book."""
    Z = np.column_stack([X, np.ones(len(X))]) if intercept else X
    s = np.ones(len(X)) if weight is None else weight
    ridge = np.diag([alpha] * X.shape[1] + [0.0] * intercept)
    return Z.T @ (Z * s[:, None]) / s.sum() + ridge


class Checker(HTMLParser):
    """Hold that every tag is closed, in order, and gather the text of the cells."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        assert self.open[-1] in ("th", "td")
        self.cells[-1] += data


def table(found):
    checker = Checker()
    checker.feed(found._repr_html_())
    checker.close()
    assert checker.open == []
    assert checker.tags == {"table", "tbody", "tr", "th", "td"}
    return dict(zip(checker.cells[::2], checker.cells[1::2], strict=True))


def test_a_result_prints_as_a_short_table_and_the_same_in_html(xp):
    X, y = made()
    found = agd.fit(xp.asarray(X), xp.asarray(y))
    lines = repr(found).split("\n")
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 110
    assert [line.split(":")[0].strip() for line in lines[:4]] == [
        "coef",
        "intercept",
        "message",
        "status",
    ]
    assert lines[2].strip() == f"message: {found.message}"
    cells = table(found)
    assert cells["status"] == "0 (CONVERGED)"
    assert cells["nit"] == str(found.nit)
    with np.printoptions(threshold=8, precision=6):
        assert cells["coef"] == str(xp.to_numpy(found.coef))
    assert "x" not in cells  # a fit's point is its coefficients
    for name, text in cells.items():
        assert f"{name}: {text.splitlines()[0]}" in repr(found)


def test_coefficients_stand_beside_the_names_of_their_columns():
    pandas = pytest.importorskip("pandas")
    X, y = made()
    frame = pandas.DataFrame(X, columns=["age", "height & weight", "c"])
    found = agd.fit(frame, y)
    lines = table(found)["coef"].split("\n")
    assert [line.split("  ")[0] for line in lines] == ["age", "height & weight", "c"]
    np.testing.assert_allclose([float(line.split()[-1]) for line in lines], found.coef, rtol=1e-5)
    assert "height &amp; weight" in found._repr_html_()
    wide = np.random.default_rng(0).normal(size=(60, 50))
    many = agd.fit(pandas.DataFrame(wide, columns=[f"column {i}" for i in range(50)]), y)
    assert table(many)["coef"].endswith("and 20 more")


def test_a_saddle_is_left_along_the_direction_of_the_certificate():
    def f(x):
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4

    found = agd.minimize(f, [1.0, 0.0], certify=True)
    assert "certificate.direction" in found.message
    step = 0.1 * np.asarray(found.certificate.direction)
    assert f(found.x + step) < f(found.x)
    below = agd.minimize(f, found.x + step, certify=True)
    assert below.certificate.kind == "minimum"
    assert below.certificate.direction is None
    top = agd.maximize(lambda x: -f(x), [1.0, 0.0], certify=True)
    assert -f(top.x + 0.1 * np.asarray(top.certificate.direction)) > -f(top.x)


def test_a_selection_is_one_line():
    chosen = agd.backends.select("numpy")
    assert repr(chosen) == "agd.backends.select('numpy:cpu')"


def test_a_tables_text_is_escaped():
    X, y = made()
    found = replace(agd.fit(X, y), method="<script>alert(1)</script> & \"more\" 'of it'")
    assert "<script>" not in found._repr_html_()
    assert table(found)["method"] == found.method


def objective(size):
    X, y = made(50, size)
    return LinearObjective.of(X, y, intercept=False)


def test_large_points_are_cut_short():
    big = objective(400)
    found = run(Descent(gradient_descent(1e-4)), big, big.zeros(), MaxIter(3))
    assert len(repr(found)) < 1500
    assert "..." in table(found)["x.coef"]


@pytest.mark.backend("torch")
def test_large_points_on_a_device_are_named_not_copied():
    torch = pytest.importorskip("torch")
    from agd.run.result import _text

    assert _text(torch.zeros(40, 50)) == "torch array of shape (40, 50), torch.float32"
    assert _text(torch.ones(2)) == "[1. 1.]"


def test_a_tree_has_a_line_for_a_leaf_and_a_batch_a_number_for_a_problem():
    X, y = made()
    found = agd.fit(X, y)
    tree = {"w": np.ones(2), "<b>": [np.zeros(()), np.ones((2, 2))]}
    shown = replace(found, x=tree, jac=tree)
    cells = {k: v for k, v in table(shown).items() if k.startswith("jac")}
    assert cells == {
        "jac['<b>'][0]": "0.0",
        "jac['<b>'][1]": "[[1. 1.]\n [1. 1.]]",
        "jac['w']": "[1. 1.]",
    }
    many = replace(found, jac=[np.ones(1)] * 30)
    assert table(many)["jac"] == "and 22 more leaves"
    assert len(repr(many).split("\n")) < 30
    several = agd.fit(X, np.column_stack([y, -y, 2 * y]))
    cells = table(several)
    assert cells["status"] == "[0 0 0]"
    assert cells["message"].startswith("3 of 3 converged")
    assert len(cells["fun"].split()) == 3


def test_a_running_result_prints():
    shown = []
    X, y = made()
    agd.fit(X, y, callback=lambda r: shown.append((repr(r), table(r)["message"])), method="gd")
    assert shown[0][1] == "running"


def test_the_certificate_says_only_what_it_knows():
    assert repr(Certificate(1e-9, 1e-8)) == "|g| 1e-09 against 1e-08"
    known = Certificate(np.asarray([1e-9, 1e-7]), {"w": 1e-8}, curvature=4.0, kind="minimum")
    assert (
        repr(known)
        == "|g| 1e-09 to 1e-07 against {'w': 1e-08}, largest curvature L 4, kind minimum"
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_least_curvature_of_the_squared_loss(xp, weighted, intercept):
    X, y = made()
    s = np.linspace(0.5, 2.0, len(y)) if weighted else None
    found = agd.fit(
        xp.asarray(X),
        xp.asarray(y),
        method="gd",
        penalty=agd.loss.L2(0.01),
        sample_weight=None if s is None else xp.asarray(s),
        intercept=intercept,
        stop=Stop(max_iter=30, grad_tol=1e3),
    )
    H = quadratic(X, s, intercept, 0.01)
    values = np.linalg.eigvalsh(H)
    known = found.certificate
    assert known.source == "Hessian"
    assert known.least_curvature == pytest.approx(values[0], rel=10 * xp.rtol)
    assert known.condition == pytest.approx(known.curvature / known.least_curvature)
    assert known.contraction == pytest.approx(1 - known.least_curvature / known.curvature)
    assert known.curvature == pytest.approx(values[-1], rel=1e-3)
    # The distance: to the solution of the normal equations, within what it says, and not far within.
    rhs = np.column_stack([X, np.ones(len(X))]) if intercept else X
    weights = np.ones(len(X)) if s is None else s
    best = np.linalg.solve(H, rhs.T @ (weights * y) / weights.sum())
    here = np.concatenate(
        [xp.to_numpy(found.coef)] + ([[float(xp.to_numpy(found.intercept))]] if intercept else [])
    )
    off = np.linalg.norm(here - best)
    assert off <= known.distance * (1 + 1e-4)
    assert known.distance <= off * known.condition * 1.01


@pytest.mark.parametrize("method", ["auto", "gd"])
def test_the_distance_is_in_the_users_coordinates(method):
    X, y = made()
    X = X * [1e3, 1.0, 1e-3] + [0.0, 50.0, 0.0]
    found = agd.fit(X, y, method=method, stop=Stop(grad_tol=1e3 if method == "auto" else 1e9))
    best, *_ = np.linalg.lstsq(np.column_stack([X, np.ones(60)]), y, rcond=None)
    off = np.linalg.norm(np.append(found.coef, found.intercept) - best)
    if method == "auto":  # in scaled coordinates the problem is well conditioned
        assert found.certificate.condition < 100
    else:
        assert found.certificate.condition > 1e6
    assert off <= found.certificate.distance


def test_the_contraction_that_was_seen_is_the_one_predicted():
    X, y = made()
    base = LinearObjective.of(X, y, intercept=False)
    found = run(Descent(gradient_descent("auto")), base, base.zeros(), GradTol(1e-9))
    known = found.certificate
    values = np.linalg.eigvalsh(quadratic(X, intercept=False))
    assert known.contraction == pytest.approx(1 - values[0] / values[-1], rel=1e-3)
    assert known.observed == pytest.approx(known.contraction, rel=1e-3)
    # With a step of one's own L is not measured, and nothing is predicted; what is seen is seen.
    lr = 0.5 / values[-1]
    found = run(Descent(gradient_descent(lr)), base, base.zeros(), GradTol(1e-9))
    assert found.certificate.observed == pytest.approx(1 - lr * values[0], rel=1e-3)
    assert found.certificate.contraction is None
    assert found.certificate.distance is None


def test_the_least_curvature_costs_no_read():
    X, y = made()
    # With a callback the steps are taken one by one.
    with_it = agd.fit(X, y, method="gd", stop=Stop(grad_tol=1e-3), callback=lambda _: None)
    assert with_it.certificate.least_curvature is not None
    assert with_it.n_sync == 1 + len(with_it.history.nit)


def test_what_is_not_known_is_not_said():
    X, y = made()
    twice = np.column_stack([X, X[:, 0]])  # dependent columns: flat in one direction
    with pytest.warns(np.exceptions.RankWarning, match="their rank is 4 of 5"):
        flat = agd.fit(twice, y)
    with pytest.warns(np.exceptions.RankWarning, match="their rank is 4 of 5"):
        slow = agd.fit(twice, y, method="accelerated", stop=Stop(grad_tol=1.0))
    assert flat.certificate.least_curvature == 0.0
    assert flat.certificate.condition == math.inf
    assert flat.certificate.distance is None
    assert slow.certificate.contraction == 1.0
    huber = agd.fit(
        X, y, loss="huber", method=agd.update.Accelerated(backtracking=False)
    ).certificate
    assert (huber.least_curvature, huber.condition, huber.distance) == (None, None, None)
    assert huber.source == "power iteration"
    near = agd.fit(X, y, loss="huber").certificate  # at the minimum is not everywhere
    assert (near.source, near.distance) == ("Hessian", None)
    assert 0.0 < near.least_curvature < near.curvature
    seen = agd.fit(X, y, loss="huber", stop=Stop()).certificate  # nor is along the path
    assert (seen.source, seen.distance) == ("the path of the run", None)
    wide = agd.fit(*made(200, 70), method="accelerated").certificate
    assert wide.least_curvature is None
    several = agd.fit(
        X, np.column_stack([y, -y]), method="accelerated", stop=Stop(check_every=5)
    ).certificate
    assert several.least_curvature is None
    assert several.observed.shape == (2,)
    vast = LinearObjective.of(X * 1e200, y)  # its Hessian overflows
    found = run(Descent(gradient_descent("auto")), vast, vast.zeros(), MaxIter(1))
    assert found.certificate.least_curvature is None


@pytest.mark.parametrize("method", ["auto", "gd"])
def test_a_ridge_bounds_the_curvature_of_any_loss(method):
    X, y = made()
    labels = (y > np.median(y)).astype(float)
    kwargs = {"loss": "log_loss", "intercept": False, "penalty": agd.loss.L2(0.1)}
    best = agd.fit(X, labels, **kwargs, method=method)
    rough = agd.fit(X, labels, **kwargs, method=method, stop=Stop(grad_tol=0.05))
    assert rough.certificate.source == "penalty"
    if method == "gd":
        assert rough.certificate.least_curvature == pytest.approx(0.1)
    off = np.linalg.norm(rough.coef - best.coef)
    assert 1e-4 < off <= rough.certificate.distance
    assert rough.certificate.distance == pytest.approx(np.linalg.norm(rough.jac.coef) / 0.1)
    with_intercept = agd.fit(X, labels, loss="log_loss", penalty=agd.loss.L2(0.1), method=method)
    assert with_intercept.certificate.source != "penalty"
    assert with_intercept.certificate.distance is None


MU, TOP = 0.5, 8.0


def simulate(kind, steps=400):
    """Return the contraction of the gradient that a method shows on a quadratic of mu and L."""
    d = np.asarray([MU, 1.0, 3.0, TOP])
    x = old = np.ones(4)
    k, sizes = TOP / MU, []
    beta = (k**0.5 - 1) / (k**0.5 + 1)
    for _ in range(steps):
        sizes.append(np.linalg.norm(d * x))
        if kind == "gradient":
            x = x - d * x / TOP
        elif kind == "accelerated":
            y = x + beta * (x - old)
            old, x = x, y - d * y / TOP
        else:  # heavy ball
            lr = 4 / (TOP**0.5 + MU**0.5) ** 2
            old, x = x, x - lr * d * x + beta**2 * (x - old)
        if sizes[-1] < 1e-140:
            break
    half = len(sizes) // 2
    return (sizes[-1] / sizes[half]) ** (1 / (len(sizes) - 1 - half))


@pytest.mark.parametrize("kind", ["gradient", "accelerated", "heavy ball"])
def test_predicted_contractions_hold(kind):
    predicted = predicted_contraction(MU, TOP, kind)
    seen = simulate(kind)
    assert seen <= predicted * 1.02
    assert seen >= predicted**2  # nor is the bound an idle one


def test_predicted_contractions_by_hand():
    assert predicted_contraction(1.0, 4.0) == 0.75
    assert predicted_contraction(1.0, 4.0, learning_rate=0.4) == pytest.approx(0.6)
    assert predicted_contraction(1.0, 4.0, learning_rate=0.5) == 1.0  # 2/L: it does not converge
    assert predicted_contraction(1.0, 4.0, "line search") == 0.6
    assert predicted_contraction(1.0, 4.0, "accelerated") == pytest.approx(0.5**0.5)
    assert predicted_contraction(1.0, 4.0, "conjugate") == pytest.approx(1 / 3)
    assert predicted_contraction(0.0, 4.0, "conjugate") == 1.0
    several = predicted_contraction(np.asarray([1.0, 2.0]), np.asarray([4.0, 4.0]))
    assert several.tolist() == [0.75, 0.5]
    with pytest.raises(ValueError, match="kind must be one of"):
        predicted_contraction(1.0, 4.0, "newton")
