"""CMC, mAP and mINP of a query set against a gallery, and search for the nearest images.

Of a ranking only the places of the *hits* matter, and a place is a count: how many gallery items lie nearer.
So nothing is ever sorted as a whole, and no query x gallery matrix exists:

1. The distances of each query to the images of its own identity (hits, and junk that the protocol excludes).
2. The gallery passes by in tiles. For every one of those distances, the items of the tile that lie nearer are
   counted and added up. Items at the very same distance count when they stand earlier in the gallery.
3. Junk is taken out of the counts. From here on all is integers and float64 on the host.

Two ways to count, chosen by measurement (docs/evaluation.md): an accelerator compares and adds where the tile
is; on a CPU, NumPy's vectorised sort of the tile's rows and a binary search beat any comparison XLA compiles,
unless there are very few hits.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mfg_jax.errors import UserError
from mfg_jax.retrieval import distance
from mfg_jax.retrieval.retrieval_set import (
    BoolArray,
    FloatArray,
    IntArray,
    RetrievalSet,
    check_pair,
)

AveragePrecision = Literal["standard", "trapezoid"]

_COMPARE_AT_MOST = 2  # relevant images of a query, up to which comparing beats sorting on a CPU
_ROWS_A_TASK = 32  # rows one thread sorts at a time, so that its copy stays in the second-level cache
_THRESHOLDS_AT_ONCE = 32  # on an accelerator: distances of one query compared with a tile at a time


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


def evaluate(
    query: RetrievalSet,
    gallery: RetrievalSet,
    exclude_same_camera: bool = True,
    max_rank: int = 50,
    ap: AveragePrecision = "standard",
    block_size: int | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Metrics:
    """Ranks the gallery for every query by Euclidean distance and measures where the hits stand.

    Definitions (docs/evaluation.md): with hits at ranks r_1 < ... < r_n, AP = mean of k / r_k
    (`ap="standard"`) and INP = n / r_n (Ye et al., "Deep Learning for Person Re-identification", 2021).
    `ap="trapezoid"` is the form of the VeRi authors' MATLAB script, mean of (P(r_k - 1) + P(r_k)) / 2 with
    P(0) = 1.

    Equal distances are ordered by place in the gallery. The result is the same, to the last bit, for any
    `block_size` and any number of devices of a kind.

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

    Returns:
        The metrics, with every query's own values.

    Raises:
        UserError: A set is empty, widths differ, features are not finite, or no query has a hit.
    """
    if ap not in ("standard", "trapezoid"):
        raise UserError(f'ap="{ap}" is no form of average precision; use "standard" or "trapezoid".')
    if max_rank < 1 or (block_size is not None and block_size < 1):
        raise UserError(f"max_rank is {max_rank} and block_size {block_size}; both must be at least 1.")
    check_pair(query.features, gallery.features)
    distance.checked_squared_norms(query.features, "query")
    use = distance.use_devices(devices)
    rows = use.query_rows(len(query), block_size)

    average_precision = np.full(len(query), np.nan)
    inverse_negative_penalty = np.full(len(query), np.nan)
    first_hit = np.zeros(len(query), np.int64)
    hits = np.zeros(len(query), np.int64)
    excluded = np.zeros(len(query), np.int64)
    by_id = np.argsort(gallery.ids, kind="stable")
    norms: FloatArray | None = None
    # Queries of one identity next to each other share their hits, which keeps the first step small.
    order = np.argsort(query.ids, kind="stable")
    for start in range(0, len(query), rows):
        block = order[start : start + rows]
        relevant = _relevant_pairs(query, gallery, by_id, block, exclude_same_camera)
        if norms is None:
            norms = distance.checked_squared_norms(gallery.features, "gallery")
        nearer = _count_nearer(use, rows, query.features[block], gallery.features, norms, relevant)
        ranked = _rank_hits(relevant, nearer, len(gallery))
        n = np.bincount(ranked.row, minlength=len(block))
        has_hit = n > 0
        last = np.cumsum(n)[has_hit] - 1
        hits[block] = n
        excluded[block] = np.diff(relevant.first) - n
        first_hit[block[has_hit]] = ranked.rank[last - n[has_hit] + 1]
        precision = ranked.number / ranked.rank
        if ap == "trapezoid":
            before = np.where(ranked.rank > 1, (ranked.number - 1) / np.maximum(ranked.rank - 1, 1), 1.0)
            precision = (before + precision) / 2
        sums = np.bincount(ranked.row, weights=precision, minlength=len(block))
        average_precision[block[has_hit]] = sums[has_hit] / n[has_hit]
        inverse_negative_penalty[block[has_hit]] = n[has_hit] / ranked.rank[last]

    counted = hits > 0
    if not counted.any():
        raise UserError(
            f"None of the {len(query)} queries has a right answer among the {len(gallery)} gallery images"
            + (" once images of the same identity and camera are removed" if exclude_same_camera else "")
            + ". Check that both sets use the same identity numbers; sets without cameras need "
            "exclude_same_camera=False."
        )
    reached = np.bincount(np.minimum(first_hit[counted], max_rank + 1), minlength=max_rank + 2)[
        1 : max_rank + 1
    ]
    return Metrics(
        cmc=np.cumsum(reached) / counted.sum(),
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
class _Pairs:
    """Pairs of a query and a gallery image of its identity, ordered by row, then by place in the gallery.

    Attributes:
        row: (P,) int64 row of the query in its block.
        item: (P,) int64 gallery image.
        junk: (P,) bool; excluded by the protocol.
        first: (Q + 1,) int64; the pairs of row i are first[i]:first[i + 1].
    """

    row: IntArray
    item: IntArray
    junk: BoolArray
    first: IntArray


@dataclasses.dataclass(frozen=True)
class _RankedHits:
    """Hits ordered by row, then by rank: row, rank from 1, and number (1 for the nearest hit), each (P,)
    int64.
    """

    row: IntArray
    rank: IntArray
    number: IntArray


def _relevant_pairs(
    query: RetrievalSet, gallery: RetrievalSet, by_id: IntArray, block: IntArray, exclude_same_camera: bool
) -> _Pairs:
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
    return _Pairs(row, item, junk, first)


def _rank_hits(pairs: _Pairs, nearer: IntArray, gallery_size: int) -> _RankedHits:
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


def _count_nearer(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray,
    pairs: _Pairs,
) -> IntArray:
    """How many gallery items rank before each pair's item, (P,) int64."""
    threshold = distance.pair_distances(use.first, query, gallery, norms, pairs.row, pairs.item, pairs.first)
    count = _count_by_sorting if use.on_cpu else _count_by_comparing
    return count(use, rows, query, gallery, norms, pairs, threshold)


def _count_by_sorting(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray,
    pairs: _Pairs,
    threshold: FloatArray,
) -> IntArray:
    """Sorts each row of each tile and looks the thresholds up in it; on all cores."""
    nearer = np.zeros(len(threshold), np.int64)
    # To count an equal distance too is to count what lies below the next larger number.
    threshold_or_equal = np.nextafter(threshold, np.float32(np.inf))

    def count_rows(tile: distance.Tile, start: int) -> None:
        stop = min(start + _ROWS_A_TASK, len(query))
        here = slice(pairs.first[start], pairs.first[stop])
        first = pairs.first[start : stop + 1] - here.start
        if not first[-1]:
            return
        values = tile.values[start:stop]
        row, item = pairs.row[here] - start, pairs.item[here] - tile.start
        look_up = np.where(item >= values.shape[1], threshold_or_equal[here], threshold[here])
        inside = np.flatnonzero((item >= 0) & (item < values.shape[1]))
        below = nearer[here]
        if np.diff(first).max() <= _COMPARE_AT_MOST:
            found = np.array([np.count_nonzero(values[r] < x) for r, x in zip(row, look_up, strict=True)])
        else:
            ordered = np.sort(values, axis=1)
            found = np.concatenate(
                [ordered[r].searchsorted(look_up[first[r] : first[r + 1]]) for r in range(stop - start)]
            )
            # In the tile that holds the pair's own item, look whether the next one is at the same distance.
            following = np.minimum(found[inside] + 1, values.shape[1] - 1)
            tied = (ordered[row[inside], following] == look_up[inside]) & (following == found[inside] + 1)
            inside = inside[tied]
        below += found
        # Of items at the same distance, only those before the pair's own count.
        for pair in inside:
            below[pair] += np.count_nonzero(values[row[pair], : item[pair]] == look_up[pair])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for tiles in distance.distance_tiles(use, rows, query, gallery, norms):
            for tile in tiles:
                list(threads.map(functools.partial(count_rows, tile), range(0, len(query), _ROWS_A_TASK)))
    return nearer


def _count_by_comparing(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray,
    pairs: _Pairs,
    threshold: FloatArray,
) -> IntArray:
    """Compares every threshold with every item of the tile where the tile is computed."""
    most = max(1, int(np.diff(pairs.first).max()))
    width = -(-most // _THRESHOLDS_AT_ONCE) * _THRESHOLDS_AT_ONCE
    place = np.arange(len(threshold)) - pairs.first[pairs.row]
    thresholds = np.full((rows, width), -np.inf, np.float32)
    thresholds[pairs.row, place] = threshold
    items = np.zeros((rows, width), np.int32)
    items[pairs.row, place] = pairs.item
    query_block = use.put_queries(query, rows)
    columns = use.gallery_columns(rows, len(gallery), gallery.shape[1])
    nearer = jnp.zeros((rows, width), jnp.int32)
    for start in range(0, len(gallery), columns):
        part = slice(start, start + columns)
        nearer = _add_nearer(
            nearer,
            query_block,
            *use.put_gallery(gallery[part], norms[part], columns),
            thresholds,
            items,
            np.int32(start),
            mesh=use.mesh,
        )
    return np.asarray(nearer)[pairs.row, place].astype(np.int64)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="nearer")
def _add_nearer(
    nearer: jax.Array,
    query: jax.Array,
    gallery: jax.Array,
    norms: jax.Array,
    thresholds: jax.Array,
    items: jax.Array,
    start: jax.Array,
    *,
    mesh: Mesh,
) -> jax.Array:
    """Adds to `nearer` (Q, H) int32 the items of one tile that rank before (threshold, item), both (Q, H)."""

    def on_one_device(
        query: jax.Array,
        gallery: jax.Array,
        norms: jax.Array,
        thresholds: jax.Array,
        items: jax.Array,
        start: jax.Array,
    ) -> jax.Array:
        values = distance.block_distances(query, gallery, norms)
        first = start + jax.lax.axis_index("gallery").astype(jnp.int32) * jnp.int32(gallery.shape[0])
        place = first + jnp.arange(gallery.shape[0], dtype=jnp.int32)

        def count(some: tuple[jax.Array, jax.Array]) -> jax.Array:
            threshold, item = some[0][:, :, None], some[1][:, :, None]
            equal_and_before = (values[:, None, :] == threshold) & (place[None, None, :] < item)
            return jnp.sum((values[:, None, :] < threshold) | equal_and_before, axis=2, dtype=jnp.int32)

        def in_groups(array: jax.Array) -> jax.Array:
            return array.reshape(array.shape[0], -1, _THRESHOLDS_AT_ONCE).swapaxes(0, 1)

        counts = jax.lax.map(count, (in_groups(thresholds), in_groups(items)))
        return jax.lax.psum(counts.swapaxes(0, 1).reshape(thresholds.shape), "gallery")

    return nearer + jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(P(), P("gallery"), P("gallery"), P(), P(), P()), out_specs=P()
    )(query, gallery, norms, thresholds, items, start)
