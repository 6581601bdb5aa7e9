"""The model file: readable JSON, floats that survive the round trip, nothing that can run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import agd
from agd.cli.files import write_atomically

__all__ = ["Model"]

FORMAT = "agd-model"
VERSION = 1


@dataclass(frozen=True)
class Model:
    """A fitted linear model with the names of its columns.

    Attributes
    ----------
    target : str
        The column that was fitted.
    features : list of str
        The columns that it was fitted from.
    coefficients : list of float
        One for each feature, in the table's units.
    intercept : float or None
        The constant term.
    loss : dict
        The loss's name and parameters.
    penalty : dict or None
        The penalty's name and parameters.
    classes : list or None
        The labels of two classes, text or numbers.
    fit : dict
        How it came about: method, status, steps, loss, rows.
    """

    target: str
    features: list[str]
    coefficients: list[float]
    intercept: float | None
    loss: dict[str, Any]
    penalty: dict[str, Any] | None
    classes: list[Any] | None
    fit: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file: to a temporary one beside it, which then takes its name."""
        head = {"format": FORMAT, "version": VERSION, "agd": agd.__version__}
        text = json.dumps({**head, **asdict(self)}, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read the file, and say in one line what is wrong with it.

        Parameters
        ----------
        path : Path
            A file that `save` wrote.

        Returns
        -------
        Model
            The model.

        Raises
        ------
        ValueError
            For a file that is missing, truncated, of another kind or version, or inconsistent.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: is not an agd model ({error})") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"{path}: is not an agd model")
        if found.get("version") != VERSION:
            made = f"version {found.get('version')!r}, made by agd {found.get('agd')!r}"
            raise ValueError(f"{path}: is a model of {made}; need version {VERSION}")
        try:
            model = cls(**{name: found[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise ValueError(f"{path}: is not a whole agd model: {error} is missing") from error
        model._check(path)
        return model

    def _check(self, path: Path) -> None:
        """Hold what was read to what `save` writes: a file may be edited, or made to do harm."""
        coefficients: Any = self.coefficients
        constant = [] if self.intercept is None else [self.intercept]
        if not isinstance(coefficients, list) or not all(
            map(_is_finite, [*coefficients, *constant])
        ):
            raise ValueError(f"{path}: coefficients and intercept must be finite numbers")
        names: Any = self.features
        if not isinstance(names, list) or {type(name) for name in names} - {str}:
            raise ValueError(f"{path}: features must be a list of names")
        if not names or len(names) != len(coefficients) or len(set(names)) != len(names):
            raise ValueError(
                f"{path}: has {len(names)} features ({len(set(names))} names) and "
                f"{len(coefficients)} coefficients; need one for each"
            )
        try:
            loss = self._loss()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"loss {self.loss!r} is unknown to agd {agd.__version__}"
            raise ValueError(f"{path}: {reason}") from error
        wanted = 0 if loss.classes is None else 2
        found: Any = [] if self.classes is None else self.classes
        if not isinstance(found, list) or len(found) != wanted:
            raise ValueError(
                f"{path}: loss {loss.name!r} has {wanted} classes, got {self.classes!r}"
            )

    def _loss(self) -> Any:
        parameters = {k: v for k, v in self.loss.items() if k != "name"}
        return agd.loss.LOSSES[self.loss["name"]](**parameters)

    def predict(self, X: Any) -> dict[str, Any]:
        """Return the predictions for rows X (n, p) as columns: the prediction, for classes also p."""
        loss = self._loss()
        z = X @ np.asarray(self.coefficients) + (self.intercept or 0.0)
        if self.classes is None:
            return {"prediction": loss.predict(z)}
        return {
            "prediction": np.where(z > 0.0, *reversed(self.classes)),
            "probability": loss.predict(z),
        }


def _is_finite(value: object) -> bool:
    """Return whether a number of the file is one that float64 holds."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
