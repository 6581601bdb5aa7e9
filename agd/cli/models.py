"""The model file: readable JSON whose floats are read back bit for bit, and which holds no code."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import agd
from agd._validation.files import write_atomically

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
    coefficients : list of float, or list of such lists
        One for each feature, in the table's units; of a loss of several outputs a list for each class.
    intercept : float, list of float or None
        The constant term; of a loss of several outputs one for each class.
    loss : dict
        The loss's name and parameters.
    penalty : dict or None
        The penalty's name and parameters.
    classes : list or None
        The labels of the classes, text or numbers.
    fit : dict
        How it was fitted: method, status, steps, loss, rows.
    """

    target: str
    features: list[str]
    coefficients: list[Any]
    intercept: float | list[float] | None
    loss: dict[str, Any]
    penalty: dict[str, Any] | None
    classes: list[Any] | None
    fit: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file atomically, by a temporary one that is then renamed."""
        head = {"format": FORMAT, "version": VERSION, "agd": agd.__version__}
        text = json.dumps({**head, **asdict(self)}, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read a model file, and raise an error of one line if it is not valid.

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
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: is not an agd model ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path}: is not an agd model")
        if content.get("version") != VERSION:
            origin = f"version {content.get('version')!r}, made by agd {content.get('agd')!r}"
            raise ValueError(f"{path}: is a model of {origin}; need version {VERSION}")
        try:
            model = cls(**{name: content[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise ValueError(f"{path}: is not a whole agd model: {error} is missing") from error
        if not isinstance(content["fit"], dict) or not isinstance(content["target"], str):
            raise ValueError(f"{path}: target must be a name, and fit an object")  # noqa: TRY004 - of a file
        model._check_content(path)
        return model

    def _check_content(self, path: Path) -> None:
        """Raise if a field is not what `save` writes: a file may have been edited, or be malicious."""
        try:
            loss = self._make_loss()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"loss {self.loss!r} is unknown to agd {agd.__version__}"
            raise ValueError(f"{path}: {reason}") from error
        several, constant = loss.outputs is not None, self.intercept
        rows: Any = self.coefficients if several else [self.coefficients]
        constants: Any = [] if constant is None else constant if several else [constant]
        lists = [rows, constants, *(rows if isinstance(rows, list) else [])]
        if not all(isinstance(part, list) for part in lists) or not all(
            map(_is_finite_number, [*constants, *(number for row in rows for number in row)])
        ):
            raise ValueError(f"{path}: coefficients and intercept must be finite numbers")
        names: Any = self.features
        if not isinstance(names, list) or {type(name) for name in names} - {str}:
            raise ValueError(f"{path}: features must be a list of names")
        counts = {len(row) for row in rows}
        if not names or counts != {len(names)} or len(set(names)) != len(names):
            raise ValueError(
                f"{path}: has {len(names)} features ({len(set(names))} names) and "
                f"{' or '.join(map(str, sorted(counts)))} coefficients; need one for each"
            )
        class_count = 0 if loss.classes is None else loss.classes
        classes: Any = [] if self.classes is None else self.classes
        if not isinstance(classes, list) or len(classes) != class_count:
            raise ValueError(
                f"{path}: loss {loss.name!r} has {class_count} classes, got {self.classes!r}"
            )
        if not _are_labels(classes):
            raise ValueError(
                f"{path}: classes must be all text, all booleans or all numbers of at most 64 bits, in ascending "
                f"order and each once, got {classes!r}"
            )
        if several and {len(rows), *([] if constant is None else [len(constants)])} != {
            class_count
        }:
            raise ValueError(
                f"{path}: coefficients and intercept must be those of {class_count} classes"
            )

    @property
    def converged(self) -> bool:
        """Whether the fit converged, as far as the file says; files of earlier versions say the status alone."""
        return bool(self.fit.get("converged", self.fit.get("status") == "CONVERGED"))

    def _make_loss(self) -> Any:
        parameters = {k: v for k, v in self.loss.items() if k != "name"}
        return agd.loss.LOSSES[self.loss["name"]](**parameters)

    def predict(self, X: Any) -> dict[str, Any]:
        """Return the predictions for rows X (n, p) as columns.

        For two classes there is also the probability of the second, for more that of the predicted one.
        """
        loss = self._make_loss()
        constant = 0.0 if self.intercept is None else np.asarray(self.intercept)
        z = X @ np.asarray(self.coefficients).T + constant
        if self.classes is None:
            return {"prediction": loss.predict(z)}
        probability = loss.predict(z)
        return {
            "prediction": np.asarray(self.classes)[loss.likeliest_class(z).astype(int)],
            "probability": probability if loss.outputs is None else probability.max(axis=-1),
        }


def _are_labels(classes: list[Any]) -> bool:
    """Return whether classes are of one kind, ascending and distinct, as `save` writes them."""
    kinds = {type(c) for c in classes}
    if kinds <= {int, float}:
        fit_in_64_bits = (
            _is_finite_number(c) and (type(c) is float or abs(c) < 2**63) for c in classes
        )
        if not all(fit_in_64_bits):
            return False
    elif kinds not in ({str}, {bool}):
        return False
    return all(a < b for a, b in itertools.pairwise(classes))


def _is_finite_number(value: object) -> bool:
    """Return whether a value of the file is a number within the range of float64."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
