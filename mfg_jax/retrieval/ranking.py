"""CMC, mAP and mINP of a query set against a gallery.

Of a ranking only the places of the *hits* matter, and a place is a count: how many gallery items lie nearer.
So nothing is ever sorted as a whole, and no query x gallery matrix exists:

1. The distances of each query to the images of its own identity (hits, and junk that the protocol excludes).
2. The gallery passes by in tiles. For every one of those distances, the items of the tile that lie nearer are
   counted and added up. Items at the very same distance count when they stand earlier in the gallery.
3. Junk is taken out of the counts. From here on all is integers and float64 on the host.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError
from mfg_jax.html_table import html_table
from mfg_jax.retrieval import distance
from mfg_jax.retrieval.counting import Pairs, count_nearer, count_nearer_in
from mfg_jax.retrieval.retrieval_set import BoolArray, IntArray, RetrievalSet, check_pair

AveragePrecision = Literal["standard", "trapezoid"]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Accuracy of a ranking; fractions, not percent.

    Attributes:
        cmc: (max_rank,) float64; `cmc[k - 1]` is the share of counted queries with a hit among the first k.
        mean_ap: Mean of `average_precision` over the counted queries.
        mean_inp: Mean of `inverse_negative_penalty` over the counted queries.
        average_precision: (Q,) float64, NaN where not counted.
        inverse_negative_penalty: (Q,) float64, NaN where not counted.
        first_hit: (Q,) int64 rank of the nearest hit, from 1; 0 where not counted.
        hits: (Q,) int64 number of gallery images that are right answers.
        excluded: (Q,) int64 number of gallery images left out: same identity, same camera.
        counted: (Q,) bool; a query without a right answer in the gallery is not counted.
    """

    cmc: npt.NDArray[np.float64]
    mean_ap: float
    mean_inp: float
    average_precision: npt.NDArray[np.float64]
    inverse_negative_penalty: npt.NDArray[np.float64]
    first_hit: IntArray
    hits: IntArray
    excluded: IntArray
    counted: BoolArray

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        ranks = [rank for rank in (1, 5, 10, 20) if rank <= len(self.cmc)]
        left_out = int(self.excluded.sum())
        return html_table(
            "Accuracy, in percent",
            {
                **{f"CMC@{rank}": f"{100 * self.cmc[rank - 1]:.1f}" for rank in ranks},
                "mAP": f"{100 * self.mean_ap:.1f}",
                "mINP": f"{100 * self.mean_inp:.1f}",
                "queries counted": f"{int(self.counted.sum()):,} of {len(self.counted):,}",
                "pairs left out": f"{left_out:,} of same identity and camera" if left_out else "none",
            },
        )


@dataclasses.dataclass(frozen=True)
class QueryShare:
    """The part of the queries that one of several processes ranks. By default, one process ranks all.

    Attributes:
        process: number of this process.
        processes: how many there are.
        gather: stacks the processes' arrays, which are of one shape, along a new first axis.
    """

    process: int = 0
    processes: int = 1
    gather: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = lambda values: values[None]

    def queries(self, count: int) -> IntArray:
        """Which of `count` queries this process ranks: every n-th, so that all have about equal work."""
        return np.arange(self.process, count, self.processes)

    def join(self, values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
        """What all processes found: from (K, own queries) of this one to (K, count)."""
        padded = np.zeros((len(values), -(-count // self.processes)))
        padded[:, : values.shape[1]] = values
        joined = np.empty((len(values), count))
        for process, part in enumerate(self.gather(padded)):
            own = np.arange(process, count, self.processes)
            joined[:, own] = part[:, : len(own)]
        return joined


def evaluate(
    query: RetrievalSet,
    gallery: RetrievalSet,
    exclude_same_camera: bool = True,
    max_rank: int = 50,
    ap: AveragePrecision = "standard",
    block_size: int | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
    share: QueryShare | None = None,
) -> Metrics:
    """Ranks the gallery for every query by Euclidean distance and measures where the hits stand.

    Definitions (docs/evaluation.md): with hits at ranks r_1 < ... < r_n, AP = mean of k / r_k
    (`ap="standard"`) and INP = n / r_n (Ye et al., "Deep Learning for Person Re-identification", 2021).
    `ap="trapezoid"` is the form of the VeRi authors' MATLAB script, mean of (P(r_k - 1) + P(r_k)) / 2 with
    P(0) = 1.

    Equal distances are ordered by place in the gallery. The result is the same, to the last bit, for any
    `block_size` and any number of devices of a kind, and of processes that share the queries.

    Args:
        query: Query set.
        gallery: Gallery set; its features may be memory-mapped.
        exclude_same_camera: Remove, for each query, gallery images of the same identity *and* the same
            camera.
        max_rank: Length of the CMC curve.
        ap: Form of the average precision.
        block_size: Queries compared at once; less needs less memory. None chooses.
        devices: Devices of one kind; the gallery is split over them. None uses all local accelerators or one
            CPU.
        share: This process's part where several, with the same sets, rank a part of the queries each. All get the
            whole result. None ranks all queries.

    Returns:
        The metrics, with every query's own values.

    Raises:
        UserError: A set is empty, widths differ, features are not finite, or no query has a hit.
    """
    _check_options(max_rank, ap)
    if block_size is not None and block_size < 1:
        raise UserError(f"block_size is {block_size}; it must be at least 1.")
    check_pair(query.features, gallery.features)
    distance.checked_squared_norms(query.features, "query")
    norms = distance.checked_squared_norms(gallery.features, "gallery")
    use = distance.use_devices(devices)
    share = share or QueryShare()
    own = query.take(share.queries(len(query)))
    rows = use.query_rows(max(1, len(own)), block_size)

    def count(block: IntArray, pairs: Pairs) -> IntArray:
        return count_nearer(use, rows, own.features[block], gallery.features, norms, pairs)

    found = _measure(own, gallery, exclude_same_camera, ap, rows, count)
    return _summarise(share.join(found, len(query)), len(gallery), exclude_same_camera, max_rank)


def evaluate_distances(
    distances: npt.ArrayLike,
    query: RetrievalSet,
    gallery: RetrievalSet,
    exclude_same_camera: bool = True,
    max_rank: int = 50,
    ap: AveragePrecision = "standard",
) -> Metrics:
    """As `evaluate`, for distances made elsewhere: by re-ranking, or by another program.

    Args:
        distances: (Q, G) float32, smaller is nearer.
        query: Query set; its features are not looked at.
        gallery: Gallery set; likewise.
        exclude_same_camera: As in `evaluate`.
        max_rank: As in `evaluate`.
        ap: As in `evaluate`.

    Raises:
        UserError: The distances are of another shape or not finite, or what `evaluate` raises.
    """
    _check_options(max_rank, ap)
    values = np.asarray(distances, np.float32)
    if values.shape != (len(query), len(gallery)) or not values.size:
        raise UserError(
            f"Distances of shape {values.shape} do not fit {len(query)} queries and {len(gallery)} gallery "
            "images."
        )
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise UserError(f"The distance of query {row} to gallery image {column} is {values[row, column]}.")

    def count(block: IntArray, pairs: Pairs) -> IntArray:
        return count_nearer_in(values[block], pairs)

    found = _measure(query, gallery, exclude_same_camera, ap, 512, count)
    return _summarise(found, len(gallery), exclude_same_camera, max_rank)


def _check_options(max_rank: int, ap: str) -> None:
    if ap not in ("standard", "trapezoid"):
        raise UserError(f'ap="{ap}" is no form of average precision; use "standard" or "trapezoid".')
    if max_rank < 1:
        raise UserError(f"max_rank is {max_rank}; it must be at least 1.")


def _measure(
    query: RetrievalSet,
    gallery: RetrievalSet,
    exclude_same_camera: bool,
    ap: AveragePrecision,
    rows: int,
    count: Callable[[IntArray, Pairs], IntArray],
) -> npt.NDArray[np.float64]:
    """Every query's own values, given a way to count the items nearer than each pair of a block of (at most
    `rows`) queries: (5, Q), in the order in which `_summarise` takes them.
    """
    average_precision = np.full(len(query), np.nan)
    inverse_negative_penalty = np.full(len(query), np.nan)
    first_hit = np.zeros(len(query), np.int64)
    hits = np.zeros(len(query), np.int64)
    excluded = np.zeros(len(query), np.int64)
    by_id = np.argsort(gallery.ids, kind="stable")
    # Queries of one identity next to each other share their hits, of which fewer distances are needed then.
    order = np.argsort(query.ids, kind="stable")
    for start in range(0, len(query), rows):
        block = order[start : start + rows]
        pairs = relevant_pairs(query, gallery, by_id, block, exclude_same_camera)
        ranked = _rank_hits(pairs, count(block, pairs), len(gallery))
        n = np.bincount(ranked.row, minlength=len(block))
        has_hit = n > 0
        last = np.cumsum(n)[has_hit] - 1
        hits[block] = n
        excluded[block] = np.diff(pairs.first) - n
        first_hit[block[has_hit]] = ranked.rank[last - n[has_hit] + 1]
        precision = ranked.number / ranked.rank
        if ap == "trapezoid":
            before = np.where(ranked.rank > 1, (ranked.number - 1) / np.maximum(ranked.rank - 1, 1), 1.0)
            precision = (before + precision) / 2
        sums = np.bincount(ranked.row, weights=precision, minlength=len(block))
        average_precision[block[has_hit]] = sums[has_hit] / n[has_hit]
        inverse_negative_penalty[block[has_hit]] = n[has_hit] / ranked.rank[last]

    return np.stack([average_precision, inverse_negative_penalty, first_hit, hits, excluded])


def _summarise(
    found: npt.NDArray[np.float64], gallery_size: int, exclude_same_camera: bool, max_rank: int
) -> Metrics:
    """The metrics, from every query's own values: (5, Q)."""
    average_precision, inverse_negative_penalty = found[:2]
    first_hit, hits, excluded = found[2:].astype(np.int64)
    counted = hits > 0
    if not counted.any():
        raise UserError(
            f"None of the {len(hits)} queries has a right answer among the {gallery_size} gallery images"
            + (" once images of the same identity and camera are removed" if exclude_same_camera else "")
            + ". Check that both sets use the same identity numbers; sets without cameras need "
            "exclude_same_camera=False."
        )
    first = np.bincount(np.minimum(first_hit[counted], max_rank + 1), minlength=max_rank + 2)
    return Metrics(
        cmc=np.cumsum(first[1 : max_rank + 1]) / counted.sum(),
        mean_ap=float(average_precision[counted].mean()),
        mean_inp=float(inverse_negative_penalty[counted].mean()),
        average_precision=average_precision,
        inverse_negative_penalty=inverse_negative_penalty,
        first_hit=first_hit,
        hits=hits,
        excluded=excluded,
        counted=counted,
    )


@dataclasses.dataclass(frozen=True)
class _RankedHits:
    """Hits ordered by row, then by rank: row, rank from 1, and number (1 for the nearest hit), each (P,)
    int64.
    """

    row: IntArray
    rank: IntArray
    number: IntArray


def relevant_pairs(
    query: RetrievalSet, gallery: RetrievalSet, by_id: IntArray, block: IntArray, exclude_same_camera: bool
) -> Pairs:
    """All pairs of one identity between the queries `block` and the gallery, which `by_id` sorts by
    identity.
    """
    sorted_ids = gallery.ids[by_id]
    left = np.searchsorted(sorted_ids, query.ids[block], side="left")
    count = np.searchsorted(sorted_ids, query.ids[block], side="right") - left
    first = np.concatenate([[0], np.cumsum(count)])
    row = np.repeat(np.arange(len(block)), count)
    item = by_id[np.arange(first[-1]) - np.repeat(first[:-1] - left, count)]
    junk = np.zeros(len(row), bool)
    if exclude_same_camera:
        junk = query.cameras[block][row] == gallery.cameras[item]
    return Pairs(row, item, junk, first)


def _rank_hits(pairs: Pairs, nearer: IntArray, gallery_size: int) -> _RankedHits:
    """Ranks among the items that are not junk, from the count of all items nearer than each pair."""
    # One sort of one integer a pair: row, then count, with the junk flag in the last bit.
    key = np.sort(((pairs.row * gallery_size + nearer) << 1) | pairs.junk)
    junk = (key & 1).astype(bool)
    row, nearer = np.divmod(key >> 1, gallery_size)
    place = np.arange(len(key)) - pairs.first[row]
    junk_so_far = np.concatenate([[0], np.cumsum(junk)])
    junk_before = junk_so_far[:-1] - junk_so_far[pairs.first[row]]
    keep = ~junk
    return _RankedHits(row[keep], (nearer - junk_before + 1)[keep], (place - junk_before + 1)[keep])
