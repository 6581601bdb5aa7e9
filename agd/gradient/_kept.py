"""Moments as a file: JSON whose numbers come back to the last bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from agd import backends
from agd._validation import choice
from agd._validation.files import write_atomically

__all__ = ["Kept"]

FORMAT, VERSION, KIND = "agd moments", 1, "G"


@dataclass(frozen=True, eq=False)
class Kept:
    """A dataclass of arrays that can be written to a file: the base of `agd.gradient.Moments`."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of strings, numbers and lists, which JSON keeps to the last bit.

        Raises
        ------
        ValueError
            If a moment is not finite.
        """
        entries = {name: backends.to_numpy(getattr(self, name)) for name in self._names()}
        for name, entry in entries.items():
            if not np.isfinite(entry).all():
                raise ValueError(f"moments must be finite to be saved: {name} is not")
        kind = str(getattr(self, KIND).dtype).rpartition(".")[2]
        numbers = {name: entry.tolist() for name, entry in entries.items()}
        return {"format": FORMAT, "version": VERSION, "dtype": kind, **numbers}

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_dict(cls, data: Any, backend: str = "numpy") -> Self:
        """Return the moments that `to_dict` wrote.

        Parameters
        ----------
        data : mapping
            What `to_dict` returned, or JSON made of it.
        backend : str
            The library and device that gets them, as ``agd.backends.select`` takes them.

        Returns
        -------
        Moments
            The same numbers.

        Raises
        ------
        ValueError
            For what is no dict of moments, and for shapes that do not fit each other.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"data must have format {FORMAT!r}, as Moments.to_dict gives it")
        if data.get("version") != VERSION:
            raise ValueError(f"version must be {VERSION}, got {data.get('version')!r}")
        if missing := [name for name in cls._names() if name not in data]:
            raise ValueError(
                f"data must have the moments' entries, but {', '.join(missing)} is missing"
            )
        kind = choice("dtype", str(data.get("dtype")), ("float32", "float64"))
        host = {name: np.asarray(data[name], dtype=kind) for name in cls._names()}
        _check_shapes(host)
        place = backends.select(backend)
        return cls(**{name: place.asarray(entry) for name, entry in host.items()})

    def save(self, path: str | Path) -> None:
        """Write the moments as JSON, whole or not at all; `load` gives the same numbers.

        Parameters
        ----------
        path : str or Path
            The file; one that is there is replaced.
        """
        text = json.dumps(self.to_dict(), allow_nan=False, indent=1)
        write_atomically(Path(path), lambda file: file.write(f"{text}\n".encode()))

    @classmethod
    def load(cls, path: str | Path, backend: str = "numpy") -> Self:
        """Read what `save` wrote; parameters and errors as in `from_dict`.

        Examples
        --------
        >>> import numpy as np, pathlib, tempfile
        >>> from agd.gradient import Blocks, Moments
        >>> found = Moments.from_blocks(Blocks.of(np.asarray([[0.1], [0.7]]), np.asarray([1.0, 2.0])))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found.save(pathlib.Path(folder) / "moments.json")
        ...     bool(Moments.load(pathlib.Path(folder) / "moments.json").G == found.G)
        True
        """
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")), backend)


def _check_shapes(host: dict[str, Any]) -> None:
    """Refuse entries that are not the moments of one set of columns and problems."""
    mean, targets, total = (host[name].shape for name in ("mean", "mean_y", "total"))
    known = {
        "G": (*mean, *mean[-1:]), "c": (*targets, *mean[-1:]), "yy": targets, "rows": total,
        "mean_rest": mean, "mean_y_rest": targets,
    }  # fmt: skip
    for name, shape in known.items():
        if host[name].shape != shape:
            raise ValueError(
                f"{name} must have shape {shape} beside a mean of shape {mean} and a mean_y of shape "
                f"{targets}, got {host[name].shape}"
            )
    if not (math.prod(mean) and mean[:-1] in {(), targets} and total in {(), targets}):
        raise ValueError(f"mean, mean_y and total must fit: shapes {mean}, {targets}, {total}")
