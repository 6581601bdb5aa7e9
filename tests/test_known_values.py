"""Rows and `__all__` agree: whatever is public is tested."""

from __future__ import annotations

import pytest

from agd import loss, update
from agd.loss import (
    LOSSES,
    classification,
    constraints,
    counts,
    penalties,
    regression,
    structured_penalties,
)
from agd.update import adaptive, rules, schedules
from helpers import known_values


@pytest.mark.parametrize(
    ("rows", "modules"),
    [
        (known_values.LOSSES, (regression, classification, counts)),
        (known_values.PENALTIES, (penalties, constraints, structured_penalties)),
        (known_values.RULES, (rules, adaptive)),
        (known_values.SCHEDULES, (schedules,)),
    ],
    ids=["losses", "penalties", "rules", "schedules"],
)
def test_every_public_name_has_a_row(rows, modules):
    assert set(rows) == {name for module in modules for name in module.__all__}


def test_every_loss_is_found_by_its_name():
    assert {type(case.loss) for case in known_values.LOSSES.values()} == set(LOSSES.values())
    assert all(type(case.loss) is LOSSES[case.loss.name] for case in known_values.LOSSES.values())
    assert all(type(loss.get(name)) is kind for name, kind in LOSSES.items())


def test_every_rule_is_a_method():
    assert set(update.METHODS) == {*known_values.RULES, "gd"}
