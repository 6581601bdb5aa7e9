"""Frames: the names of their columns are kept, and held against those of the rows to predict for."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

import agd


class Frame:
    """What a fit sees of a frame: numbers, and the names of the columns."""

    def __init__(self, values, columns):
        self.values, self.columns = np.asarray(values, dtype=float), columns
        self.shape = self.values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values


X = np.random.default_rng(0).normal(size=(40, 3))
Y = X @ np.asarray([1.0, -2.0, 3.0]) + 1.0
NAMES = ["a", "b", "c"]


def _online(table, y):
    return agd.Online().partial_fit(table, y).result


FITS = {
    "direct": agd.fit,
    "run": lambda table, y: agd.fit(table, y, method="lbfgs"),
    "loss": lambda table, y: agd.fit(table, y, loss="huber"),
    "online": _online,
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_names_are_kept_and_held_against_rows_to_predict_for(fit):
    found = fit(Frame(X, NAMES), Y)
    assert found.feature_names == NAMES
    assert "coef: a  " in repr(found)
    assert (found.predict(Frame(X, NAMES)) == found.predict(X)).all()
    with pytest.raises(ValueError, match="column 0 must be 'a', got 'b'"):
        found.predict(Frame(X[:, [1, 0, 2]], ["b", "a", "c"]))
    assert pickle.loads(pickle.dumps(found)).feature_names == NAMES  # noqa: S301 - written here


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b", "z"], "got 'c' missing and 'z' not among them"),
        (["a", "b"], "got 'c' missing"),
        (["a", "b", "c", "d"], "got 'd' not among them"),
        (["a", "b", "c", "a"], "the 3 columns that were fitted, once each, got 4"),
        (list("pqrstuvw"), "'a', 'b', 'c' missing and 'p', 'q', 'r', 's', 't' and 3 more"),
    ],
)
def test_other_names_are_said(names, words):
    found = agd.fit(Frame(X, NAMES), (Y > 1.0) * 1.0, loss="log_loss", penalty=agd.loss.L2(0.1))
    table = Frame(np.zeros((2, len(names))), names)
    for predict in (found.predict, found.predict_proba, found.decision_function):
        with pytest.raises(ValueError, match=re.escape(words)):
            predict(table)


@pytest.mark.parametrize("columns", [None, 3, range(3), ["a", 1, "c"], []])
def test_what_has_no_names_passes(columns):
    found = agd.fit(Frame(X, columns), Y)
    assert found.feature_names is None
    assert "feature_names" not in repr(found)
    named = agd.fit(Frame(X, NAMES), Y)
    for table in (X, X.tolist(), Frame(X, columns)):
        assert (named.predict(table) == found.predict(Frame(X, NAMES))).all()


def test_batches_of_an_online_fit_have_the_same_columns():
    model = agd.Online().partial_fit(Frame(X[:20], NAMES), Y[:20])
    with pytest.raises(ValueError, match="column 1 must be 'b', got 'c'"):
        model.partial_fit(Frame(X[20:, [0, 2, 1]], ["a", "c", "b"]), Y[20:])
    model.partial_fit(X[20:], Y[20:])
    assert model.result.feature_names == NAMES
    with pytest.raises(ValueError, match="'z' not among them"):
        model.predict(Frame(X, ["a", "b", "z"]))


def test_a_stream_of_frames_has_their_names():
    def batches(second):
        return [(Frame(X[:20], NAMES), Y[:20]), (Frame(X[20:], second), Y[20:])]

    stream = agd.Stream(batches(NAMES))
    assert stream.columns == agd.fit(stream).feature_names == NAMES
    with pytest.raises(ValueError, match=r"batch 1: X .* column 0 must be 'a', got 'c'"):
        agd.fit(agd.Stream(batches(["c", "b", "a"])))
    assert agd.Stream([(X, Y)]).columns is None
