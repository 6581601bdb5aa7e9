"""The tests of the quick session: the files that guard most for their time, and what is left out of them.

A file belongs here if a fault in its room shows in it, and if it takes a few seconds on NumPy and
array-api-strict together. All other files, and the tests of `SLOW_TESTS`, run in the full sessions.
"""

from __future__ import annotations

QUICK_FILES = (
    "backends/test_backend_table.py",
    "validation/test_argument_errors.py",
    "validation/test_column_names.py",
    "data/test_reported_data_faults.py",
    "data/test_row_blocks.py",
    "data/test_stream.py",
    "loss/test_loss.py",
    "loss/test_penalties.py",
    "gradient/test_objective.py",
    "gradient/test_moments.py",
    "gradient/test_derivatives.py",
    "update/test_rules.py",
    "update/test_transforms.py",
    "update/test_schedules.py",
    "update/test_line_search.py",
    "run/test_solver_table.py",
    "run/test_loop.py",
    "run/test_loop_checks.py",
    "run/test_stopping.py",
    "run/test_stopping_criteria.py",
    "run/test_direct.py",
    "run/test_whitened_fit.py",
    "run/test_result.py",
    "doors/test_fit.py",
    "doors/test_fit_degenerate_data.py",
    "doors/test_inference.py",
    "doors/test_model_file.py",
    "doors/test_line.py",
    "doors/test_minimize.py",
    "doors/test_minimize_bad_input.py",
    "doors/test_online.py",
    "test_known_values.py",
)
"""Paths from the folder of the tests."""

SLOW_TESTS = (
    "test_available_lists_every_row",
    "test_every_library_prints_the_same_numbers",
    "test_float32_loses_no_more_than_it_must_over_ten_million_rows",
    "test_leaves_of_two_libraries_are_named",
    "test_other_losses_are_a_tenth_of_a_standard_error_from_a_fit",
    "test_single_rows_converge",
    "test_small_batches_reach_the_neighbourhood",
    "test_the_size_of_batches_changes_rounding_only",
)
"""Tests of these files that take seconds each, by their names."""
