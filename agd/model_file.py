"""The model file: readable JSON whose floats are read back bit for bit, and which holds no code.

`Model` is the content of a file: plain numbers, text and lists. ``agd.save`` makes one of a result and ``agd.load``
makes a result of one; the command line adds the names of the table's columns. A file that was edited or damaged is
refused with what is wrong.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from agd import backends
from agd import loss as losses
from agd._typing import HostArray, Loss, Penalty
from agd._validation.files import write_atomically
from agd.loss.base import BaseLoss, BasePenalty, PenaltySum, RescaledPenalty, as_entries

__all__ = ["Model", "as_json", "decode_penalty", "encode_loss", "encode_penalty"]

FORMAT = "agd-model"
VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1 had one problem, and no more than the fields without a default
FLOAT_TYPES = ("float16", "float32", "float64")
MAX_AXES = 32  # of the coefficients
NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has no such numbers


def _file_version() -> str:
    """Return the version of agd, which the package itself knows: no room imports it."""
    version: str = sys.modules["agd"].__version__
    return version


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


PENALTIES: dict[str, type[BasePenalty]] = {
    _snake_case(name): kind
    for name, kind in ((name, getattr(losses, name)) for name in losses.__all__)
    if isinstance(kind, type) and issubclass(kind, BasePenalty)
}
"""Penalties and sets by the names that a file has for them, such as ``"elastic_net"``."""


@dataclass(frozen=True)
class Model:
    """A fitted linear model as plain numbers, text and lists.

    Attributes
    ----------
    target : str or None
        The column that was fitted.
    features : list of str or None
        The columns that it was fitted from.
    coefficients : nested list of float, shape (..., p) or (..., k, p)
        One for each feature, in the data's units; of a loss of k outputs a list for each.
    intercept : float, nested list of float, shape (...) or (..., k), or None
        The constant term.
    loss : dict
        The loss's name and parameters.
    penalty : dict or None
        The penalty's name and parameters.
    classes : list or None
        The labels of the classes, text, booleans or numbers.
    fit : dict
        How it was fitted: method, status, steps, value and gradient, rows.
    dtype : str
        The floating-point type of the coefficients.
    label_dtype, targets, alpha
        As of `FitResult`.
    """

    target: str | None
    features: list[str] | None
    coefficients: list[Any]
    intercept: Any
    loss: dict[str, Any]
    penalty: dict[str, Any] | None
    classes: list[Any] | None
    fit: dict[str, Any]
    dtype: str = "float64"
    label_dtype: str | None = None
    targets: int | None = None
    alpha: float | None = None

    def save(self, path: Path) -> None:
        """Write the file atomically, by a temporary one that is then renamed."""
        head = {"format": FORMAT, "version": VERSION, "agd": _file_version()}
        text = json.dumps({**head, **asdict(self)}, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read a model file, and raise an error of one line if it is not valid.

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
        if content.get("version") not in READABLE_VERSIONS:
            origin = f"version {content.get('version')!r}, made by agd {content.get('agd')!r}"
            raise ValueError(
                f"{path}: is a model of {origin}; agd {_file_version()} reads versions 1 and 2"
            )
        needed = [field.name for field in fields(cls) if field.default is MISSING]
        if missing := [name for name in needed if name not in content]:
            raise ValueError(f"{path}: is not a whole agd model: {missing[0]!r} is missing")
        known = {field.name for field in fields(cls)}
        model = cls(**{name: value for name, value in content.items() if name in known})
        try:
            model.check()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from error
        return model

    def check(self) -> None:
        """Raise ValueError if a field is not what `save` writes: a file may have been edited, or be malicious."""
        fit: Any = self.fit
        target: Any = self.target
        if not isinstance(fit, dict) or not isinstance(target, str | None):
            raise ValueError("target must be a name, and fit an object")  # noqa: TRY004 - of a file
        loss, coef, constant = self.make_loss(), self.coef, self.constant
        self._check_types(coef, constant)
        if self.features is not None:
            _check_features(self.features, coef.shape[-1])
        self._check_classes(loss)
        self.make_penalty()
        least = 1 if loss.outputs is None else 2
        count = 0 if loss.classes is None else loss.classes
        outputs = None if loss.outputs is None or coef.ndim < least else coef.shape[-2]
        alike = constant is None or constant.shape == coef.shape[:-1]
        if coef.ndim < least or not alike or outputs not in (None, count):
            raise ValueError(
                f"coefficients and intercept must be those of {'the same problems' if outputs is None else f'{count} classes'}"
            )
        if self.targets is not None and (coef.ndim == least or coef.shape[0] != self.targets):
            raise ValueError(f"coefficients must be those of {self.targets!r} targets")

    def _check_types(self, coef: HostArray, constant: HostArray | None) -> None:
        if self.dtype not in FLOAT_TYPES:
            raise ValueError(f"dtype must be one of {', '.join(FLOAT_TYPES)}, got {self.dtype!r}")
        with np.errstate(over="ignore"):
            narrow = [part.astype(self.dtype) for part in (coef, constant) if part is not None]
        if not all(np.isfinite(part).all() for part in narrow):
            raise ValueError(f"coefficients and intercept must be finite numbers of {self.dtype}")
        kind: Any = self.label_dtype
        if kind is not None and not (
            isinstance(kind, str) and re.fullmatch(r"u?int(8|16|32|64)", kind)
        ):
            raise ValueError(f"label_dtype must be a type of integers or null, got {kind!r}")
        for name, types in (("targets", int), ("alpha", (int, float))):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
                raise ValueError(f"{name} must be a number or null, got {value!r}")

    def _check_classes(self, loss: Loss) -> None:
        count = 0 if loss.classes is None else loss.classes
        classes: Any = [] if self.classes is None else self.classes
        if not isinstance(classes, list) or len(classes) != count:
            raise ValueError(f"loss {loss.name!r} has {count} classes, got {self.classes!r}")
        if not _are_labels(classes):
            raise ValueError(
                f"classes must be all text, all booleans or all numbers of at most 64 bits, in ascending "
                f"order and each once, got {classes!r}"
            )

    @property
    def coef(self) -> HostArray:
        """The coefficients as an array of float64."""
        return _numbers(self.coefficients)

    @property
    def constant(self) -> HostArray | None:
        """The intercept as an array of float64; None without one."""
        return None if self.intercept is None else _numbers(self.intercept)

    @property
    def converged(self) -> bool:
        """Whether the fit converged, as far as the file says; files of earlier versions say the status alone."""
        return bool(np.all(self.fit.get("converged", self.fit.get("status") == "CONVERGED")))

    def number_of_fit(self, name: str, default: Any = math.nan) -> Any:
        """Return a number of `fit`, or an array of them; the default where the file has none.

        Raises
        ------
        ValueError
            If it is anything else.
        """
        value = _decoded(self.fit.get(name, default))
        try:
            numbers = np.asarray(value, dtype=float)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"fit: {name} must be a number or lists of numbers, got {value!r}"
            ) from error
        return numbers if numbers.ndim else numbers.item()

    def make_loss(self) -> Loss:
        """Return the loss.

        Raises
        ------
        ValueError
            If this version of agd has none of this name and these parameters.
        """
        made: Loss = _make("loss", self.loss, lambda name: losses.LOSSES[name])
        return made

    def make_penalty(self) -> Penalty | None:
        """Return the penalty; raise as `make_loss` does."""
        return decode_penalty(self.penalty)


def _make(what: str, content: Any, kind: Callable[[str], Callable[..., Any]]) -> Any:
    """Return the object of a name and parameters."""
    try:
        parameters = {name: _decoded(value) for name, value in content.items() if name != "name"}
        return kind(content["name"])(**parameters)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{what} {content!r} is unknown to agd {_file_version()}") from error


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(entry) for entry in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def as_json(value: Any) -> Any:
    """Return numbers, arrays and lists of them as JSON has them; what is not finite as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if backends.is_array(value):
        value = backends.to_numpy(value).tolist()
    if isinstance(value, dict):
        return {name: as_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return str(value)
    return value


def encode_loss(loss: Loss) -> dict[str, Any]:
    """Return the name and the parameters of a loss.

    Raises
    ------
    TypeError
        If it is not one of agd's, since a file holds no code.
    """
    if losses.LOSSES.get(loss.name) is not type(loss) or not isinstance(loss, BaseLoss):
        raise TypeError(
            f"loss must be one of agd.loss to be saved, since a file holds no code, got {loss!r}"
        )
    return {"name": loss.name, **_parameters(loss)}


def encode_penalty(penalty: Penalty | None) -> dict[str, Any] | None:
    """Return the name and the parameters of a penalty; of a sum, those of its terms.

    Raises
    ------
    TypeError
        If it is not one of agd's, since a file holds no code.
    """
    if penalty is None:
        return None
    if isinstance(penalty, PenaltySum):
        return {"name": "sum", "terms": [encode_penalty(term) for term in penalty.terms]}
    if isinstance(penalty, RescaledPenalty):  # of a fit in standard units
        inner = encode_penalty(penalty.penalty)
        scale = as_json(penalty.scale)
        return {"name": "rescaled", "penalty": inner, "factor": penalty.factor, "scale": scale}
    name = _snake_case(type(penalty).__name__)
    if PENALTIES.get(name) is not type(penalty):
        raise TypeError(
            f"penalty must be one of agd.loss to be saved, since a file holds no code, got {penalty!r}"
        )
    return {"name": name, **_parameters(penalty)}


def _parameters(made: Any) -> dict[str, Any]:
    return {field.name: as_json(getattr(made, field.name)) for field in fields(made) if field.init}


def decode_penalty(content: Any) -> Penalty | None:
    """Return the penalty of a name and parameters; raise ValueError where there is none such."""
    return None if content is None else _make("penalty", content, _penalty_class)


def _penalty_class(name: str) -> Callable[..., Any]:
    others: dict[str, Callable[..., Any]] = {"sum": _sum_of, "rescaled": _decode_rescaled}
    return others.get(name) or PENALTIES[name]


def _decode_rescaled(penalty: Any, factor: float, scale: Any) -> RescaledPenalty:
    return RescaledPenalty(decode_penalty(penalty), factor, as_entries("scale", scale))


def _sum_of(terms: list[Any]) -> PenaltySum:
    parts = [part for part in map(decode_penalty, terms) if isinstance(part, BasePenalty)]
    if len(parts) < max(2, len(terms)):
        raise ValueError(f"terms must be two penalties or more, got {terms!r}")
    return PenaltySum(tuple(parts))


def _numbers(value: Any) -> HostArray:
    """Return a number, or nested lists of numbers, as an array; raise for anything else."""
    if not isinstance(value, list):
        if not _is_finite_number(value):
            raise ValueError("coefficients and intercept must be finite numbers")
        return np.asarray(float(value))
    parts = [_numbers(part) for part in value]
    if not parts or len({part.shape for part in parts}) > 1 or parts[0].ndim >= MAX_AXES:
        raise ValueError("coefficients and intercept must be lists of the same lengths, none empty")
    return np.stack(parts)


def _check_features(names: Any, count: int) -> None:
    if not isinstance(names, list) or {type(name) for name in names} - {str}:
        raise ValueError("features must be a list of names")
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"has {len(names)} features ({len(set(names))} names) and {count} coefficients; need one for each"
        )


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
