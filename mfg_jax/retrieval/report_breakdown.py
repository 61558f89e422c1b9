"""A result taken apart: by what is known of the query, and by the cameras of query and answer. NumPy only."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mfg_jax.retrieval.confidence import Interval, bootstrap_interval, per_query_values
from mfg_jax.retrieval.ranked_lists import RankedLists
from mfg_jax.retrieval.results import Draw
from mfg_jax.retrieval.retrieval_set import IntArray

_SAMPLES = 2000
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Group:
    """The counted queries that have something in common; fractions, not percent.

    Attributes:
        name: What they have in common.
        queries: How many.
        identities: How many vehicles they show.
        cmc_1: Share with a right answer at rank 1.
        mean_ap: Mean over the group.
        mean_inp: Mean over the group.
        interval: 95 % interval of `mean_ap`; None where there is one identity.
    """

    name: str
    queries: int
    identities: int
    cmc_1: float
    mean_ap: float
    mean_inp: float
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class CameraPairs:
    """How often a query of one camera finds its vehicle in another.

    Attributes:
        query_cameras: (A,) the queries' cameras, ascending.
        gallery_cameras: (B,) the right answers' cameras, ascending.
        queries: (A, B) int64 number of queries that have a right answer in that camera.
        found: (A, B) float64 share of these with at least one such answer among the first `within`; NaN for none.
        within: Length of the lists looked at.
    """

    query_cameras: IntArray
    gallery_cameras: IntArray
    queries: IntArray
    found: npt.NDArray[np.float64]
    within: int


def group_queries(draw: Draw, labels: Sequence[str]) -> list[Group]:
    """The metrics of each group of counted queries, by the group's name.

    Args:
        draw: Of a result.
        labels: Q names of groups; queries with an empty one are left out.
    """
    values = per_query_values(draw)
    label_array = np.asarray(labels, np.str_)
    groups = []
    for name in np.unique(label_array[draw.counted]).tolist():
        members = draw.counted & (label_array == name)
        if not name:
            continue
        _, identity = np.unique(draw.query_id[members], return_inverse=True)
        counts = np.bincount(identity).astype(np.float64)
        sums = np.bincount(identity, weights=values["mAP"][members]).astype(np.float64)
        interval = bootstrap_interval(sums, counts, _LEVEL, _SAMPLES, 0) if len(counts) > 1 else None
        cmc_1, mean_ap, mean_inp = (
            float(values[metric][members].mean()) for metric in ("CMC@1", "mAP", "mINP")
        )
        groups.append(Group(name, int(members.sum()), len(counts), cmc_1, mean_ap, mean_inp, interval))
    return groups


def camera_pairs(
    lists: RankedLists,
    query_ids: IntArray,
    query_cameras: IntArray,
    gallery_ids: IntArray,
    gallery_cameras: IntArray,
    *,
    exclude_same_camera: bool,
    within: int = 10,
) -> CameraPairs:
    """Counts, for each pair of cameras, the queries that have right answers there and those that find one.

    Args:
        lists: Of all queries of a draw; their indices are places in the arrays below.
        query_ids: (Q,) identities of the query split.
        query_cameras: (Q,) its cameras.
        gallery_ids: (G,) identities of the gallery.
        gallery_cameras: (G,) its cameras.
        exclude_same_camera: Whether answers of the query's own camera were left out.
        within: How far down a list to look, at most its length.
    """
    within = min(within, lists.gallery.shape[1])
    from_cameras, into_cameras = np.unique(query_cameras[lists.query]), np.unique(gallery_cameras)
    # Which cameras saw which identity: (I, B).
    identities, gallery_identity = np.unique(gallery_ids, return_inverse=True)
    seen = np.zeros((len(identities), len(into_cameras)), bool)
    seen[gallery_identity, np.searchsorted(into_cameras, gallery_cameras)] = True
    ids, cameras = query_ids[lists.query], query_cameras[lists.query]
    place = np.minimum(np.searchsorted(identities, ids), len(identities) - 1)
    has = seen[place] & (identities[place] == ids)[:, None]
    if exclude_same_camera:
        has &= into_cameras[None] != cameras[:, None]
    finds = np.zeros_like(has)
    row, rank = np.nonzero(lists.correct[:, :within])
    finds[row, np.searchsorted(into_cameras, gallery_cameras[lists.gallery[row, rank]])] = True

    shape = (len(from_cameras), len(into_cameras))
    queries, found = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    at = np.searchsorted(from_cameras, cameras)
    np.add.at(queries, at, has.astype(np.int64))
    np.add.at(found, at, (has & finds).astype(np.int64))
    share = np.where(queries > 0, found / np.maximum(queries, 1), np.nan)
    return CameraPairs(from_cameras, into_cameras, queries, share, within)
