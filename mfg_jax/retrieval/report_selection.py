"""Which queries a report shows, each view's chosen over all counted queries. NumPy only."""

from collections.abc import Mapping

import numpy as np

from mfg_jax.retrieval.results import Draw
from mfg_jax.retrieval.retrieval_set import IntArray

VIEWS = ("hardest", "best", "random")


def select_queries(draw: Draw, count: int, seed: int) -> Mapping[str, IntArray]:
    """Chooses the queries of each view, in the view's order.

    Hard is a low inverse negative penalty (the last right answer far down), then a low average precision.

    Args:
        draw: Of a result; queries without a right answer are left out.
        count: How many queries may be shown in all; each view gets a third, or all of them where they are no more.
        seed: Of the random view.

    Returns:
        By view, rows of the draw, int64.
    """
    counted = np.flatnonzero(draw.counted)
    each = len(counted) if len(counted) <= count else max(1, count // len(VIEWS))
    hardness = np.lexsort((counted, draw.average_precision[counted], draw.inverse_negative_penalty[counted]))
    hardest = counted[hardness]
    return {
        "hardest": hardest[:each],
        "best": hardest[::-1][:each],
        "random": np.random.default_rng(seed).permutation(counted)[:each],
    }
