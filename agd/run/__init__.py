"""Room four: the LOOP around it, the only one there is: when to stop, and what came of it.

>>> from agd.run import Stop
>>> Stop(max_iter=100).check_every
10
"""

from __future__ import annotations

from agd.run.loop import run
from agd.run.result import Certificate, History, Result
from agd.run.stopping import Status, Stop

__all__ = ["Certificate", "History", "Result", "Status", "Stop", "run"]
