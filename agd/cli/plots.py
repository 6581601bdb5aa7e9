"""The loss curve that ``fit --plot`` draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agd.cli.files import write_atomically

__all__ = ["FORMATS", "draw_loss_curve"]

FORMATS = (".png", ".svg", ".pdf")


def draw_loss_curve(path: Path, history: Any, title: str, ylabel: str) -> None:
    """Draw the loss and the norm of the gradient against the steps.

    Parameters
    ----------
    path : Path
        A ``.png``, ``.svg`` or ``.pdf`` file.
    history : History
        The loss and the norm of the gradient at the recorded steps.
    title : str
        The picture's title.
    ylabel : str
        The axis label of the norm of the gradient.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, gradient_axes = figure.subplots(2, 1, sharex=True)
    loss_axes.plot(history.nit, history.value, color="tab:blue")
    loss_axes.set_ylabel("loss")
    loss_axes.set_title(title, fontsize="medium", wrap=True)
    # A logarithmic axis has no zero.
    positive = history.grad_norm > 0.0
    gradient_axes.semilogy(history.nit[positive], history.grad_norm[positive], color="tab:orange")
    gradient_axes.set_ylabel(ylabel)
    gradient_axes.set_xlabel("step")
    for axes in (loss_axes, gradient_axes):
        axes.grid(visible=True, alpha=0.3)
    file_format = path.suffix.lower().removeprefix(".")
    write_atomically(path, lambda file: figure.savefig(file, format=file_format, dpi=150))
