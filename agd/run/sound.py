"""What has to be known of the data's values before a linear fit begins, and what the fit will tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agd import backends
from agd._typing import Loss, Penalty
from agd._validation import Data
from agd.gradient.blocks import Blocks
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective
from agd.gradient.screening import Screened, screen
from agd.gradient.survey import survey
from agd.loss import Squared
from agd.run.plan import takes_moments

__all__ = ["looked_at", "sound_data"]


def sound_data(
    data: Data,
    chosen: Loss,
    penalty: Penalty | None,
    intercept: bool,
    *,
    auto: bool,
    tells: Callable[[LinearObjective], bool],
) -> tuple[Screened, Moments | None]:
    """Check the values, as far as no later pass does.

    Parameters
    ----------
    data : Data
        Checked but for its values.
    chosen, penalty, intercept
        The objective's.
    auto : bool
        Whether the method is chosen here.
    tells : callable
        Whether the values of X are looked at where a given method's run is looked for in closed form.

    Returns
    -------
    screened : Screened
        What is known of the data.
    moments : Moments or None
        Those of chunks, which cost to read: of the same pass.
    """
    chunked = backends.of(data.X).chunked
    uncounted = LinearObjective(Blocks.uncounted(*data), chosen, penalty, intercept)
    if auto and chunked and takes_moments(uncounted):
        return survey(uncounted.blocks, chosen)
    with np.errstate(over="ignore"):  # weights whose sum overflows are said by the screen
        blocks = Blocks.of(*data)
    # The moments of the squared loss are finite only if the data are: a pass for them tells both.
    if auto and type(chosen) is Squared and data.weight is None and not chunked:
        return Screened(blocks, None, 1.0, 0), None
    # So is a gradient over all rows only if X is: a run that ends well has looked at it, and so has one in
    # closed form.
    told = not chunked and (takes_moments(uncounted) if auto else tells(uncounted))
    return screen(blocks, chosen, whole=not told), None


def looked_at(sound: Screened, chosen: Loss) -> Screened:
    """Look at the values of X too, which raises if they are not finite; parameters as found so far."""
    seen = screen(sound.blocks, chosen)
    known = seen if sound.classes is None else sound
    return known._replace(n_sync=sound.n_sync + seen.n_sync, whole=True)
