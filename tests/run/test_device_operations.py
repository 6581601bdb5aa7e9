"""Whole fits stay within a budget of device operations, each of which is a launch on a GPU."""

from __future__ import annotations

import pytest

from helpers.device_operations import operation_count, whole_fits

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
