"""Count the operations that a call asks of a device, through torch's dispatcher.

Each is a launch on a GPU, and work for the interpreter on small problems. Views and shapes cost neither and are
left out. The count depends on the code alone, so that it is the same on every machine. Run as a script, it
prints the operations of some fits by the functions that ask for them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agd

PACKAGE = str(Path(agd.__file__).parent)
VIEWS = {
    "view", "reshape", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias", "t", "transpose",
    "permute", "_unsafe_view", "as_strided", "unbind", "split", "diagonal", "_reshape_alias", "lift_fresh", "empty",
    "new_empty", "empty_like", "unsafe_split",
}  # fmt: skip


def device_operations(call: Callable[[], Any], depth: int = 1) -> Counter[tuple[str, str]]:
    """Return how often a call asks for each operation, by its name and the functions of the package that ask."""
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: Counter[tuple[str, str]] = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = func.overloadpacket.__name__
            if name not in VIEWS:
                counts[name, _callers(depth)] += 1
            return func(*args, **(kwargs or {}))

    with Counting():
        call()
    return counts


def operation_count(call: Callable[[], Any]) -> int:
    """Return how many operations a call asks for."""
    return sum(device_operations(call).values())


def _callers(depth: int) -> str:
    """Return the innermost functions of the package, other than those that serve all arrays alike."""
    frame: Any = sys._getframe(2)
    names: list[str] = []
    while frame is not None and len(names) < depth:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and "backends" not in path and not path.endswith("_tree.py"):
            names.append(f"{path[len(PACKAGE) + 1 :]}:{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(names)


def whole_fits() -> dict[str, Callable[[], Any]]:
    """Return fits whose operations have a budget, of arrays of torch."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    line = torch.asarray([1.0, 2, 3, 4, 5, 6, 8], dtype=torch.float64)[:, None]
    heights = torch.asarray([5.5, 6, 6.5, 7, 7.5, 8, 9], dtype=torch.float64)
    X = torch.asarray(rng.normal(size=(1000, 20)))
    classes = torch.asarray((rng.random(1000) < 0.5) * 1.0)
    y = X[:, 0] + classes
    problems = torch.asarray(rng.normal(size=(1000, 100, 5)))
    targets = torch.asarray(rng.normal(size=(1000, 100)))
    return {
        "squared, seven points": lambda: agd.fit(line, heights),
        "squared, 1,000 x 20": lambda: agd.fit(X, y),
        "ridge, 1,000 x 20": lambda: agd.fit(X, y, penalty=agd.loss.L2(0.1)),
        "lasso, 1,000 x 20": lambda: agd.fit(X, y, penalty=agd.loss.L1(0.05)),
        "squared, 1,000 problems of 100 x 5": lambda: agd.fit(problems, targets),
        "log_loss with a ridge, 1,000 x 20": lambda: agd.fit(
            X, classes, loss="log_loss", penalty=agd.loss.L2(1e-3)
        ),
    }


def operations_of_steps(method: Any, **stop: Any) -> float:
    """Return the operations of one evaluation by a method in 20 variables, the function's own apart."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 20))
    H = torch.asarray(root @ root.T + np.eye(20))
    x0 = torch.asarray(rng.normal(size=20))

    def value(x: Any) -> Any:
        return 0.5 * (x @ (H @ x))

    def gradient(x: Any) -> Any:
        return H @ x

    of_function = operation_count(lambda: (value(x0), gradient(x0)))
    results: list[Any] = []
    limits = agd.Stop(max_iter=40, **stop)
    total = operation_count(
        lambda: results.append(agd.minimize(value, x0, jac=gradient, method=method, stop=limits))
    )
    return total / results[0].nfev - of_function


def main() -> None:
    """Print the operations of each fit by the functions that ask for them, most first."""
    for title, call in whole_fits().items():
        counts = device_operations(call, depth=2)
        sys.stdout.write(f"{title}: {sum(counts.values())} operations\n")
        callers: Counter[str] = Counter()
        for (_, caller), count in counts.items():
            callers[caller] += count
        for caller, count in callers.most_common(25):
            names = {name: n for (name, asked), n in counts.items() if asked == caller}
            sys.stdout.write(f"  {count:5} {caller}  {names}\n")


if __name__ == "__main__":
    main()
