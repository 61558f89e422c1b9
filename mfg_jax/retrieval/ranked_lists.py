"""The first images of each query's ranking, as people look at them."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import numpy.typing as npt

from mfg_jax.retrieval.retrieval_set import BoolArray, FloatArray, IntArray, RetrievalSet
from mfg_jax.retrieval.search import search


@dataclasses.dataclass(frozen=True)
class RankedLists:
    """The first K images of R rankings, after removing what the protocol excludes.

    Attributes:
        query: (R,) int64 index of each query.
        gallery: (R, K) int64 index of each result, -1 where the gallery is exhausted.
        distance: (R, K) float32 Euclidean distance, infinite where exhausted.
        correct: (R, K) bool; the result shows the query's identity.
    """

    query: IntArray
    gallery: IntArray
    distance: FloatArray
    correct: BoolArray


def ranked_lists(
    query: RetrievalSet,
    gallery: RetrievalSet,
    query_index: npt.ArrayLike,
    length: int = 10,
    exclude_same_camera: bool = True,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> RankedLists:
    """Ranks the gallery for some queries.

    Args:
        query: Query set.
        gallery: Gallery set.
        query_index: (R,) which queries.
        length: Results of each list.
        exclude_same_camera: As in `evaluate`: leave out gallery images of the query's identity and camera.
        devices: As in `search`.

    Raises:
        UserError: What `search` raises.
    """
    rows = np.asarray(query_index, np.int64)
    ids, cameras = query.ids[rows, None], query.cameras[rows, None]
    junk = np.zeros((len(rows), len(gallery)), bool)
    if exclude_same_camera:
        junk = (gallery.ids[None] == ids) & (gallery.cameras[None] == cameras)
    found_at_most = min(len(gallery), length + int(junk.sum(axis=1).max(initial=0)))
    index, distance = search(query.features[rows], gallery.features, found_at_most, devices=devices)
    # A stable sort by "is junk" moves junk behind the rest and keeps the order otherwise.
    is_junk = np.take_along_axis(junk, index, axis=1)
    order = np.argsort(is_junk, axis=1, kind="stable")[:, :length]
    index, distance, is_junk = (
        np.take_along_axis(values, order, axis=1) for values in (index, distance, is_junk)
    )
    index = np.where(is_junk, -1, index)
    distance = np.where(is_junk, np.float32(np.inf), distance)
    missing = length - index.shape[1]
    if missing > 0:
        index = np.pad(index, ((0, 0), (0, missing)), constant_values=-1)
        distance = np.pad(distance, ((0, 0), (0, missing)), constant_values=np.inf)
    return RankedLists(rows, index, distance, (index >= 0) & (gallery.ids[index] == ids))


def evenly_by_average_precision(average_precision: npt.ArrayLike, count: int) -> IntArray:
    """Queries from the best to the worst in even steps, so that a picture of them flatters nobody.

    Args:
        average_precision: (Q,) NaN where not counted.
        count: How many queries.

    Returns:
        (min(count, counted),) int64 query indices, in falling order of average precision.
    """
    values = np.asarray(average_precision, np.float64)
    order = np.argsort(-values, kind="stable")[: int((~np.isnan(values)).sum())]
    places = np.linspace(0, len(order) - 1, min(count, len(order)))
    return order[np.round(places).astype(np.int64)]
