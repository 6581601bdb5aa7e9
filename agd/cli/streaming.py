"""The command ``fit --stream``: a table larger than memory, read in batches anew for each pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import agd
from agd.cli.fitting import (
    FitOptions,
    FittedTable,
    deviance,
    make_model,
    progress_bar,
)
from agd.cli.models import Model
from agd.cli.report import in_table_names
from agd.cli.tables import table_kind
from agd.data.tables import table_batches

__all__ = ["fit_table_in_batches"]


def fit_table_in_batches(options: FitOptions, path: Path, selection: Any) -> FittedTable:
    """Fit a table in batches on a backend; as `fit_table`, but of a file that is read while it is fitted."""
    if not path.is_dir():  # a folder of files is one table
        table_kind(path)
    features = options.feature_names()
    options.check_column_roles(features)
    loss = options.make_loss()
    table = table_batches(
        path,
        options.target,
        features=features,
        weight=options.weight or None,
        text_loss=loss if loss.classes is not None else None,
    )

    def batches() -> Iterator[tuple[Any, ...]]:
        for batch in table():
            yield tuple(selection.asarray(part) for part in batch)

    start = time.perf_counter()
    try:
        with progress_bar(options.max_iter) as callback:
            stream = agd.Stream(batches)
            result = agd.fit(
                stream,
                loss=loss,
                penalty=options.make_penalty(),
                intercept=options.intercept,
                method=options.make_method(),
                stop=options.make_stop(),
                callback=callback,
            )
    except ValueError as error:
        message = in_table_names(str(error), path, table.features, options.target, options.weight)
        raise ValueError(message) from error
    seconds, rows = time.perf_counter() - start, stream.rows or 0
    model = make_model(options, table.features, table.labels, result, rows)
    scores = _scores_over_batches(model, result, table)
    return FittedTable(model, result, scores, path, rows, f"{selection}, in batches", seconds)


def _scores_over_batches(model: Model, result: Any, table: Any) -> dict[str, float]:
    """Return the scores that `fit_table` gives, from sums over the batches in two passes."""
    loss, (total, mean) = result.loss, _weighted_mean(table)
    has_deviance = loss.has_deviance and not loss.quadratic
    sums = np.zeros(2)
    for X, y, *weights in table():
        s = weights[0] if weights else np.ones_like(y)
        prediction = model.predict(X)["prediction"]
        if model.classes is not None:
            truth = np.asarray(model.classes)[np.searchsorted(result.classes, y)]
            sums += [float(s @ (prediction == truth)), 0.0]
        elif has_deviance:
            null_prediction = np.full_like(y, mean)
            sums += [deviance(loss, y, prediction, s), deviance(loss, y, null_prediction, s)]
        else:
            sums += [float(s @ (y - prediction) ** 2), float(s @ (y - mean) ** 2)]
    residual, null = sums / total
    if model.classes is not None:
        return {"accuracy": float(residual)}
    name = "d2" if has_deviance else "r2"
    return {name: float(1.0 - residual / null) if null > 0.0 else float("nan")}


def _weighted_mean(table: Any) -> tuple[float, float]:
    """Return the sum of the rows' weights, and the weighted mean of the target."""
    total = weighted_sum = 0.0
    for _, y, *weights in table():
        s = weights[0] if weights else np.ones_like(y)
        total, weighted_sum = total + float(s.sum()), weighted_sum + float(s @ y)
    return total, weighted_sum / total
