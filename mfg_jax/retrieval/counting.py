"""How many gallery items rank before each of some chosen ones: the one question a ranking metric has to ask.

Two ways to count, chosen by measurement (docs/evaluation.md). On an accelerator, thresholds are compared with
a tile of distances where the tile is computed, jitted. On a CPU, NumPy's vectorised sort of the tile's rows
and a binary search beat every comparison XLA compiles.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Sequence
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
        return _count_by_sorting([tiles], pairs, threshold)
    threshold = distance.pair_distances(use.first, query, gallery, norms, pairs.row, pairs.item, pairs.first)
    if use.on_cpu:
        tiles_in_turn = distance.distance_tiles(use, rows, query, gallery, norms)
        # A generator expression would keep each tile in memory while the next is computed.
        one_by_one = map(lambda tile: [tile], tiles_in_turn)  # noqa: C417
        return _count_by_sorting(one_by_one, pairs, threshold)
    return _count_by_comparing(use, rows, query, gallery, norms, pairs, threshold)


def count_nearer_in(values: FloatArray, pairs: Pairs) -> IntArray:
    """As `count_nearer`, (P,) int64, with the distances (Q, G) float32 at hand."""
    return _count_by_sorting([[distance.Tile(0, values)]], pairs, values[pairs.row, pairs.item])


def _count_by_sorting(
    stretches: Iterable[Sequence[distance.Tile]], pairs: Pairs, threshold: FloatArray
) -> IntArray:
    """Looks the thresholds up among the sorted values of each row of each stretch (tiles that follow each
    other); on all cores.
    """
    nearer = np.zeros(len(threshold), np.int64)
    queries = len(pairs.first) - 1
    # To count an equal distance too is to count what lies below the next larger number.
    threshold_or_equal = np.nextafter(threshold, np.float32(np.inf))
    farthest = np.full(queries, -np.inf, np.float32)
    has_pairs = pairs.first[1:] > pairs.first[:-1]
    farthest[has_pairs] = np.maximum.reduceat(threshold_or_equal, pairs.first[:-1][has_pairs])

    # Threads run side by side only while NumPy works: so many rows a call, and few calls for each row.
    def count_rows(tiles: Sequence[distance.Tile], start: int) -> None:
        first = pairs.first[start : start + _ROWS_A_TASK + 1]
        here = slice(first[0], first[-1])
        if here.start == here.stop:
            return
        values = np.concatenate([tile.values[start : start + len(first) - 1] for tile in tiles], axis=1)
        item = pairs.item[here] - tiles[0].start
        after = item >= values.shape[1]
        look_up = np.where(after, threshold_or_equal[here], threshold[here])
        sorted_rows, ordered = _sort_rows(values, farthest[start : start + len(values)])
        own = itertools.pairwise((first - here.start).tolist())
        found = np.concatenate(
            [row.searchsorted(look_up[begin:end]) for row, (begin, end) in zip(sorted_rows, own, strict=True)]
        )
        # Where the stretch holds the pair's own item: of others at the same distance, those before it count.
        # That there are any shows in the next of the sorted values; one of another row does no harm.
        inside = np.flatnonzero((item >= 0) & ~after)
        row = pairs.row[here][inside] - start
        begin_of_row = np.cumsum([0, *map(len, sorted_rows)])
        following = begin_of_row[row] + found[inside] + 1
        tied = ordered[np.minimum(following, len(ordered) - 1)] == look_up[inside]
        for pair, of_row in zip(inside[tied], row[tied], strict=True):
            found[pair] += np.count_nonzero(values[of_row, : item[pair]] == look_up[pair])
        nearer[here] += found

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for tiles in stretches:
            list(threads.map(functools.partial(count_rows, tiles), range(0, queries, _ROWS_A_TASK)))
            del tiles  # or they would stay in memory while the tile after the next is computed
    return nearer


def _sort_rows(values: FloatArray, farthest: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """Sorts each row by itself and leaves out, where that pays, what lies beyond the row's farthest hit.

    Args:
        values: (R, C) float32.
        farthest: (R,) float32; larger values may be left out.

    Returns:
        The R sorted rows, (at most C,) float32 each, and all of them one after the other.
    """
    # With a trained network hardly any of the gallery lies within a query's farthest hit. A look at the first
    # few of each row tells.
    probe = values[:, :_PROBED_VALUES]
    if 4 * np.count_nonzero(probe <= farthest[:, None]) >= probe.size:
        ordered = np.sort(values, axis=1)
        return list(ordered), ordered.ravel()
    rows = [row.compress(within) for row, within in zip(values, values <= farthest[:, None], strict=True)]
    for row in rows:
        row.sort()
    return rows, np.concatenate(rows)


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
