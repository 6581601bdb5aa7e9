"""The loss curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agd.cli.files import write_atomically

__all__ = ["KINDS", "loss_curve"]

KINDS = (".png", ".svg", ".pdf")


def loss_curve(path: Path, history: Any, title: str, size: str) -> None:
    """Draw the loss and the gradient's size against the steps.

    Parameters
    ----------
    path : Path
        A ``.png``, ``.svg`` or ``.pdf`` file.
    history : History
        What a run recorded.
    title : str
        The picture's title.
    size : str
        What the gradient's size is called.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(history.nit, history.value, color="tab:blue")
    above.set_ylabel("loss")
    above.set_title(title, fontsize="medium", wrap=True)
    positive = history.grad_norm > 0.0
    below.semilogy(history.nit[positive], history.grad_norm[positive], color="tab:orange")
    below.set_ylabel(size)
    below.set_xlabel("step")
    for axis in (above, below):
        axis.grid(visible=True, alpha=0.3)
    kind = path.suffix.lower().removeprefix(".")
    write_atomically(path, lambda file: figure.savefig(file, format=kind, dpi=150))
