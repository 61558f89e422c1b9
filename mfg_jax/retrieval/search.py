"""The nearest gallery images of each query, in a gallery of any size."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from mfg_jax.errors import UserError
from mfg_jax.retrieval import distance
from mfg_jax.retrieval.retrieval_set import FloatArray, IntArray, as_features, check_pair

_ROWS_A_TASK = 32
_REFINED_VALUES = 2**23  # numbers of gallery embeddings fetched at a time for the final distances: 32 MiB


def search(
    query_features: Any,
    gallery_features: Any,
    k: int,
    *,
    block_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = False,
) -> tuple[IntArray, FloatArray]:
    """Finds the k gallery embeddings nearest to each query.

    The gallery passes by in tiles, so it may be larger than memory: give a memory-mapped array
    (`numpy.load(path, mmap_mode="r")`). The final distances are computed from the differences of the
    embeddings, so that an identical embedding is at exactly 0. Equal distances are ordered by place in the
    gallery. The result does not depend on `block_size` or on the number of devices.

    Args:
        query_features: (Q, D) float32.
        gallery_features: (G, D) float32.
        k: How many to return, at most G.
        block_size: Queries compared at once; None chooses. The gallery is read once for each block.
        devices: Devices of one kind; the gallery is split over them. None uses all local accelerators or one
            CPU.
        progress: Show progress on stderr.

    Returns:
        Indices into the gallery (Q, k) int64, and Euclidean distances (Q, k) float32, ascending.

    Raises:
        UserError: A set is empty, widths differ, features are not finite, or k is not between 1 and G.
    """
    query = as_features(query_features, "query_features")
    gallery = as_features(gallery_features, "gallery_features")
    check_pair(query, gallery)
    if not 1 <= k <= len(gallery):
        raise UserError(f"k is {k}; it must be between 1 and the size of the gallery, {len(gallery)}.")
    if block_size is not None and block_size < 1:
        raise UserError(f"block_size is {block_size}; it must be at least 1.")
    distance.checked_squared_norms(query, "query")
    use = distance.use_devices(devices)
    rows = use.query_rows(len(query), block_size)
    indices = np.empty((len(query), k), np.int64)
    distances = np.empty((len(query), k), np.float32)
    pairs = len(query) * len(gallery)
    with tqdm(total=pairs, desc="search", unit="pair", unit_scale=True, disable=not progress) as bar:
        for start in range(0, len(query), rows):
            block = query[start : start + rows]
            nearest = nearest_of_block(use, rows, block, gallery, None, k, bar)
            here = slice(start, start + len(block))
            indices[here], distances[here] = _refine(block, gallery, nearest.index)
    return indices, distances


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The nearest items of a block of queries, by ranking distance (see `distance`).

    Attributes:
        index: (Q, k) int64.
        value: (Q, k) float32 ranking distances, ascending.
        farthest: (Q,) float32 ranking distance of the farthest item.
    """

    index: IntArray
    value: FloatArray
    farthest: FloatArray


def nearest_of_block(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray | None,
    k: int,
    bar: tqdm,
) -> Nearest:
    """Finds the nearest k of one block of queries.

    Args:
        use: Devices to compute on.
        rows: Rows of the block, padding included.
        query: (Q, D) float32, Q at most `rows`.
        gallery: (G, D) float32; may be memory-mapped.
        norms: (G,) float32 squared norms; None computes them as the gallery passes by.
        k: At most G.
        bar: Advanced by the pairs compared.
    """
    nearest = Nearest(
        np.full((len(query), k), -1, np.int64),
        np.full((len(query), k), np.inf, np.float32),
        np.full(len(query), -np.inf, np.float32),
    )
    find = _find_on_cpu if use.on_cpu else _find_on_accelerator
    find(use, rows, query, gallery, norms, nearest, bar)
    return nearest


def _find_on_cpu(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray | None,
    nearest: Nearest,
    bar: tqdm,
) -> None:
    """Fills `nearest`: keeps of each tile what lies nearer than the k-th nearest so far, soon very little."""
    k = nearest.index.shape[1]

    def merge_rows(tile: distance.Tile, start: int) -> None:
        here = slice(start, start + _ROWS_A_TASK)
        values = tile.values[here]
        np.maximum(nearest.farthest[here], values.max(axis=1), out=nearest.farthest[here])
        # Later items lose ties against those found before, hence "less"; of the tile's own, equal ones stay.
        wanted = values < nearest.value[here, -1:]
        if values.shape[1] > k and np.isinf(nearest.value[start, -1]):
            wanted &= values <= np.partition(values, k - 1, axis=1)[:, k - 1 : k]
        row, column = np.nonzero(wanted)
        if len(row):
            _merge(nearest, row + start, values[row, column], column + tile.start)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for tile in distance.distance_tiles(use, rows, query, gallery, norms):
            list(threads.map(functools.partial(merge_rows, tile), range(0, len(query), _ROWS_A_TASK)))
            bar.update(tile.values.size)


def _find_on_accelerator(
    use: distance.Devices,
    rows: int,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray | None,
    nearest: Nearest,
    bar: tqdm,
) -> None:
    """Fills `nearest`: takes the nearest k of each device's part of a tile there, and merges on the host."""
    query_block = use.put_queries(query, rows)
    for start, *part in distance.gallery_parts(use, rows, gallery, norms):
        found = _nearest_of_tile(
            query_block, *part, k=min(nearest.index.shape[1], part[0].shape[0] // use.count), mesh=use.mesh
        )
        value, column, farthest = (np.asarray(array)[: len(query)] for array in found)
        np.maximum(nearest.farthest, farthest.max(axis=1), out=nearest.farthest)
        row, place = np.nonzero(value < nearest.value[:, -1:])
        if len(row):
            _merge(nearest, row, value[row, place], column[row, place] + np.int64(start))
        bar.update(len(query) * min(part[0].shape[0], len(gallery) - start))


@functools.partial(jax.jit, static_argnames=("k", "mesh"))
def _nearest_of_tile(
    query: jax.Array, gallery: jax.Array, norms: jax.Array, *, k: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ranking distances and columns of the nearest k on each device, both (Q, devices * k).

    And the farthest ranking distance on each device, (Q, devices).
    """

    def on_one_device(
        query: jax.Array, gallery: jax.Array, norms: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        values = distance.block_distances(query, gallery, norms)
        negative, column = jax.lax.top_k(-values, k)
        first = jax.lax.axis_index("gallery").astype(jnp.int32) * jnp.int32(gallery.shape[0])
        farthest = jnp.max(jnp.where(jnp.isposinf(values), -jnp.inf, values), axis=1, keepdims=True)
        return -negative, column + first, farthest

    split = P(None, "gallery")
    return jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(P(), P("gallery"), P("gallery")), out_specs=(split, split, split)
    )(query, gallery, norms)


def _merge(nearest: Nearest, row: IntArray, value: FloatArray, index: IntArray) -> None:
    """Puts candidates, each (C,), into their rows of `nearest`, which stay sorted."""
    touched = np.unique(row)
    k = nearest.index.shape[1]
    all_row = np.concatenate([np.repeat(touched, k), row])
    all_value = np.concatenate([nearest.value[touched].ravel(), value])
    all_index = np.concatenate([nearest.index[touched].ravel(), index])
    order = np.lexsort((all_index, all_value, all_row))
    # Each touched row has at least its k old entries, so its first k in this order exist.
    first = np.searchsorted(all_row[order], touched)
    chosen = order[first[:, None] + np.arange(k)]
    nearest.value[touched] = all_value[chosen]
    nearest.index[touched] = all_index[chosen]


def _refine(query: FloatArray, gallery: FloatArray, index: IntArray) -> tuple[IntArray, FloatArray]:
    """Orders the found items (Q, k) by the exact distance and returns both."""
    distances = np.empty(index.shape, np.float32)
    step = max(1, _REFINED_VALUES // (index.shape[1] * gallery.shape[1]))
    for start in range(0, len(query), step):
        here = slice(start, start + step)
        difference = gallery[index[here]] - query[here, None, :]
        distances[here] = np.sqrt(np.einsum("qkd,qkd->qk", difference, difference))
    order = np.lexsort((index, distances), axis=1)
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(distances, order, axis=1)
