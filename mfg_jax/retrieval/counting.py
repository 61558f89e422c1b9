"""How many gallery items rank before each of some chosen ones: the one question a ranking metric has to ask.

Two ways to count, chosen by measurement (docs/evaluation.md). On an accelerator, thresholds are compared with
a tile of distances where the tile is computed, jitted. On a CPU, NumPy's vectorised sort of the tile's rows
and a binary search beat every comparison XLA compiles.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mfg_jax.retrieval import distance
from mfg_jax.retrieval.retrieval_set import BoolArray, FloatArray, IntArray

_ROWS_A_TASK = 32  # rows a thread takes at a time
_PROBED_VALUES = 512  # of a row, to guess how much of it lies within the farthest hit
_KEPT_VALUES = 2**25  # distances a block of queries may keep on the host: 128 MiB
_THRESHOLDS_AT_ONCE = 32  # on an accelerator: distances of one query compared with a tile at a time


@dataclasses.dataclass(frozen=True)
class Pairs:
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


def count_nearer(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray,
    pairs: Pairs,
) -> IntArray:
    """How many gallery items rank before each pair's item, for a block of queries.

    Args:
        use: Devices to compute on.
        rows: Rows of the block, padding included.
        query: (Q, D) float32, Q at most `rows`.
        gallery: (G, D) float32; may be memory-mapped.
        norms: (G,) float32 squared norms.
        pairs: P pairs of a row and an item.

    Returns:
        (P,) int64. Of items at the same distance, those earlier in the gallery rank before.
    """
    if use.on_cpu and rows * len(gallery) <= _KEPT_VALUES:
        tiles = list(distance.distance_tiles(use, rows, query, gallery, norms))
        threshold = np.empty(len(pairs.row), np.float32)
        for tile in tiles:
            inside = np.flatnonzero((pairs.item >= tile.start) & (pairs.item < tile.stop))
            threshold[inside] = tile.values[pairs.row[inside], pairs.item[inside] - tile.start]
        return _count_by_sorting(tiles, pairs, threshold)
    threshold = distance.pair_distances(use.first, query, gallery, norms, pairs.row, pairs.item, pairs.first)
    if use.on_cpu:
        return _count_by_sorting(distance.distance_tiles(use, rows, query, gallery, norms), pairs, threshold)
    return _count_by_comparing(use, rows, query, gallery, norms, pairs, threshold)


def count_nearer_in(values: FloatArray, pairs: Pairs) -> IntArray:
    """As `count_nearer`, (P,) int64, with the distances (Q, G) float32 at hand."""
    return _count_by_sorting([distance.Tile(0, values)], pairs, values[pairs.row, pairs.item])


def _count_by_sorting(tiles: Iterable[distance.Tile], pairs: Pairs, threshold: FloatArray) -> IntArray:
    """Looks the thresholds up among the sorted values of each row of each tile; on all cores."""
    nearer = np.zeros(len(threshold), np.int64)
    queries = len(pairs.first) - 1
    # To count an equal distance too is to count what lies below the next larger number.
    threshold_or_equal = np.nextafter(threshold, np.float32(np.inf))
    farthest = np.full(queries, -np.inf, np.float32)
    has_pairs = pairs.first[1:] > pairs.first[:-1]
    farthest[has_pairs] = np.maximum.reduceat(threshold_or_equal, pairs.first[:-1][has_pairs])

    def count_rows(tile: distance.Tile, start: int) -> None:
        first = pairs.first[start : start + _ROWS_A_TASK + 1].tolist()
        here = slice(first[0], first[-1])
        if here.start == here.stop:
            return
        item = pairs.item[here] - tile.start
        after = item >= tile.values.shape[1]
        look_up = np.where(after, threshold_or_equal[here], threshold[here])
        inside = (item >= 0) & ~after
        rows_inside = set(pairs.row[here][inside].tolist())
        # With a trained network hardly any of the gallery lies within a query's farthest hit. A look at the
        # first few of each row tells whether leaving the others out pays.
        probe = tile.values[start : start + len(first) - 1, :_PROBED_VALUES]
        near = np.count_nonzero(probe <= farthest[start : start + len(probe), None])
        leave_out = 4 * near < probe.size
        found = []
        for row, (begin, end) in enumerate(itertools.pairwise(first), start):
            if begin == end:
                continue
            own = slice(begin - here.start, end - here.start)
            values = tile.values[row]
            ordered = _sorted_up_to(values, farthest[row]) if leave_out else np.sort(values)
            below = ordered.searchsorted(look_up[own])
            found.append(below)
            if row not in rows_inside:
                continue
            # The tile holds items of this row's pairs: of others at the same distance, those before them
            # count.
            following = np.minimum(below + 1, len(ordered) - 1)
            tied = (following == below + 1) & (ordered[following] == look_up[own]) & inside[own]
            for pair in own.start + np.flatnonzero(tied):
                before = values[: item[pair]] == look_up[pair]
                nearer[here.start + pair] += np.count_nonzero(before)
        nearer[here] += np.concatenate(found)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for tile in tiles:
            list(threads.map(functools.partial(count_rows, tile), range(0, queries, _ROWS_A_TASK)))
            del tile  # or it would stay in memory while the tile after the next is computed
    return nearer


def _sorted_up_to(values: FloatArray, farthest: np.float32) -> FloatArray:
    """Those of the (C,) values that are not above `farthest`, sorted."""
    within = values.compress(values <= farthest)
    within.sort()
    return within


def _count_by_comparing(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray,
    pairs: Pairs,
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
    nearer = jnp.zeros((rows, width), jnp.int32)
    for start, *part in distance.gallery_parts(use, rows, gallery, norms):
        nearer = _add_nearer(nearer, query_block, *part, thresholds, items, np.int32(start), mesh=use.mesh)
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
