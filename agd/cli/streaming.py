"""A fit of a table that is larger than memory: it is read in batches, anew for each pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import agd
from agd.cli.fitting import Done, Job, deviance, keep, model_of, progress
from agd.cli.models import Model
from agd.cli.wording import for_table
from agd.data.tables import table_batches

__all__ = ["fit_stream"]


def fit_stream(job: Job, path: Path, chosen: Any) -> Done:
    """Fit a table in batches on the chosen backend; parameters and answer as of `fit_table`.

    Raises
    ------
    ValueError
        As there.
    """
    named = job.named()
    job.check_apart_columns(named)
    classes = job.chosen_loss().classes is not None
    table = table_batches(path, job.target, features=named, weight=job.weight or None, text=classes)

    def batches() -> Iterator[tuple[Any, ...]]:
        for batch in table():
            yield tuple(chosen.asarray(part) for part in batch)

    began = time.perf_counter()
    try:
        with progress(job.max_iter) as callback:
            stream = agd.Stream(batches)
            result = agd.fit(
                stream,
                loss=job.chosen_loss(),
                penalty=job.penalty(),
                intercept=job.intercept,
                method=job.chosen_method(),
                stop=job.stop(),
                callback=callback,
            )
    except ValueError as error:
        said = for_table(str(error), path, table.features, job.target, job.weight)
        raise ValueError(said) from error
    seconds, rows = time.perf_counter() - began, stream.rows or 0
    model = model_of(job, table.features, table.labels, result, rows)
    scores = _scores(model, result, table)
    keep(job, path.name, model, result)
    return Done(model, result, scores, path, rows, f"{chosen}, in batches", seconds)


def _scores(model: Model, result: Any, table: Any) -> dict[str, float]:
    """Return the scores of `fit_table` from sums over the batches, in two passes."""
    loss, (total, mean) = result.loss, _mean(table)
    sums = np.zeros(2)
    for X, y, *more in table():
        s = more[0] if more else np.ones_like(y)
        found = model.predict(X)["prediction"]
        if model.classes is not None:
            truth = np.where(y == result.classes[1], *reversed(model.classes))
            sums += [float(s @ (found == truth)), 0.0]
        elif loss.name == "poisson":
            sums += [deviance(y, found, s), deviance(y, np.full_like(y, mean), s)]
        else:
            sums += [float(s @ (y - found) ** 2), float(s @ (y - mean) ** 2)]
    left, null = sums / total
    if model.classes is not None:
        return {"accuracy": float(left)}
    name = "D²" if loss.name == "poisson" else "R²"
    return {name: float(1.0 - left / null) if null > 0.0 else float("nan")}


def _mean(table: Any) -> tuple[float, float]:
    """Return the weight of all rows, and the weighted mean of the target."""
    total = amount = 0.0
    for _, y, *more in table():
        s = more[0] if more else np.ones_like(y)
        total, amount = total + float(s.sum()), amount + float(s @ y)
    return total, amount / total
