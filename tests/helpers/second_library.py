"""An array library that the table does not name: array-api-strict under another name.

Its arrays follow the Array API and refuse to be mixed with those of array-api-strict itself.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

NAME = "second_library"


def import_second_library(folder: Path) -> ModuleType:
    """Copy array-api-strict into a folder under the other name, and import the copy."""
    import array_api_strict

    source = Path(array_api_strict.__file__).parent
    (folder / NAME).mkdir(exist_ok=True)
    for path in source.glob("*.py"):
        text = path.read_text(encoding="utf-8").replace("array_api_strict", NAME)
        (folder / NAME / path.name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(NAME)
    finally:
        sys.path.remove(str(folder))
