"""Whole fits stay within a budget of device operations, each of which is a launch on a GPU."""

from __future__ import annotations

import pytest

import agd
from helpers.device_operations import operation_count, operations_of_steps, whole_fits

pytestmark = pytest.mark.backend("torch")

MAX_OPERATIONS = {
    "squared, seven points": 80,
    "squared, 1,000 x 20": 80,
    "ridge, 1,000 x 20": 80,
    "lasso, 1,000 x 20": 100,
    "squared, 1,000 problems of 100 x 5": 100,
    "log_loss with a ridge, 1,000 x 20": 400,
}


@pytest.mark.parametrize("title", MAX_OPERATIONS)
def test_a_whole_fit_stays_within_its_operations(title):
    pytest.importorskip("torch")
    assert 0 < operation_count(whole_fits()[title]) <= MAX_OPERATIONS[title]


def test_newton_reads_once_an_evaluation():
    pytest.importorskip("torch")
    result = whole_fits()["log_loss with a ridge, 1,000 x 20"]()
    assert result.solver == "newton"
    assert 0 < result.n_sync <= result.nfev + 3


MAX_STEP_OPERATIONS = {
    "lbfgs": 16,
    "cg": 16,
    "hager_zhang": 16,
    "barzilai_borwein": 14,
    "polyak": 16,
    "steepest_descent": 16,
    "accelerated": 16,
}


@pytest.mark.parametrize("method", MAX_STEP_OPERATIONS)
def test_an_evaluation_of_a_line_search_stays_within_its_operations(method):
    pytest.importorskip("torch")
    operations = operations_of_steps(method, grad_tol=1e-14)
    assert 0.0 < operations <= MAX_STEP_OPERATIONS[method] + 0.5  # a few are those of the whole run


MAX_RULE_OPERATIONS = {
    "gradient_descent": 6,
    "adagrad": 11,
    "rmsprop": 12,
    "adam": 16,
    "amsgrad": 18,
    "adamax": 18,
    "adamw": 18,
    "radam": 18,
    "nadam": 19,
    "yogi": 24,
    "lamb": 30,
}


@pytest.mark.parametrize("name", MAX_RULE_OPERATIONS)
def test_a_step_by_a_rule_stays_within_its_operations(name):
    pytest.importorskip("torch")
    rule = getattr(agd.update, name)(1e-2)
    operations = operations_of_steps(rule, grad_tol=0.0, check_every=10)
    assert 0.0 < operations <= MAX_RULE_OPERATIONS[name]
