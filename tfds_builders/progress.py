"""How far long work has come, on standard error."""

import sys
from typing import Any

from tqdm import tqdm

_SECONDS_IN_A_LOG = 30


def progress_bar(total: int, description: str, unit: str = " images", **options: Any) -> tqdm:
    """A bar that is redrawn in place on a terminal; in a log, where each drawing stays, one every half minute.

    Args:
        total: what there is to do, in units.
        description: what is being done.
        unit: of the total, shown behind the rate.
        **options: of `tqdm.tqdm`.
    """
    interval = 0.1 if sys.stderr.isatty() else _SECONDS_IN_A_LOG
    return tqdm(total=total, desc=description, unit=unit, mininterval=interval, **options)
