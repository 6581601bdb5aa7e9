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
}


@pytest.mark.parametrize("title", MAX_OPERATIONS)
def test_a_whole_fit_stays_within_its_operations(title):
    pytest.importorskip("torch")
    assert 0 < operation_count(whole_fits()[title]) <= MAX_OPERATIONS[title]


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


def test_a_step_by_a_rule_stays_within_its_operations():
    pytest.importorskip("torch")
    rules = {agd.update.gradient_descent(1e-2): 8, agd.update.adam(1e-2): 26}
    for rule, most in rules.items():
        assert 0.0 < operations_of_steps(rule, grad_tol=0.0, check_every=10) <= most
