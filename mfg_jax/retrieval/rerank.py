"""k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017).

Two images are near when they have the same neighbours. Each image is encoded by a sparse vector over all
images: the weights exp(-d) of its k-reciprocal neighbours, averaged over its nearest k2 images. The new
distance mixes the Jaccard distance of two such vectors with the original one.

The public programs hold several N x N float matrices on the host (N = query + gallery: 0.7 GB each at
VeRi-776's size). Here distances pass by in tiles, of which the nearest k1 + 1 and the largest are kept, and
the vectors are sparse.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import scipy.sparse
from tqdm import tqdm

from mfg_jax.errors import UserError
from mfg_jax.retrieval import distance
from mfg_jax.retrieval.retrieval_set import FloatArray, IntArray, as_features, check_pair
from mfg_jax.retrieval.search import nearest_of_block

_PAIR_VALUES = 2**22  # numbers of embeddings gathered at a time by one thread: 16 MiB


def rerank(
    query_features: Any,
    gallery_features: Any,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = False,
) -> FloatArray:
    """Re-ranks by k-reciprocal neighbours.

    As in the authors' program, the distance that is encoded and mixed in is the *squared* Euclidean distance
    divided by its largest value from that image to any other. Whether re-ranking was on belongs beside every
    number it made, and the plain numbers beside it.

    Args:
        query_features: (Q, D) float32.
        gallery_features: (G, D) float32.
        k1: Neighbours that must be reciprocal.
        k2: Nearest images whose encodings are averaged; 1 averages nothing.
        lambda_value: Weight of the original distance; 1 gives the original order back.
        devices: As in `search`.
        progress: Show progress on stderr.

    Returns:
        (Q, G) float32 new distances; smaller is nearer. `evaluate_distances` makes metrics of them.

    Raises:
        UserError: k1 or k2 does not fit the number of images, lambda_value is not in 0..1, or what `search`
            raises.
    """
    query = as_features(query_features, "query_features")
    gallery = as_features(gallery_features, "gallery_features")
    check_pair(query, gallery)
    images = len(query) + len(gallery)
    if not 1 <= k1 < images or not 1 <= k2 <= k1 + 1:
        raise UserError(
            f"k1 is {k1} and k2 {k2}: k1 must be at least 1 and below the number of images, {images}, and k2 "
            "between 1 and k1 + 1."
        )
    if not 0 <= lambda_value <= 1:
        raise UserError(f"lambda_value is {lambda_value}; it is a weight between 0 and 1.")
    features = np.concatenate([query, gallery])
    norms = distance.checked_squared_norms(features, "query and gallery")
    use = distance.use_devices(devices)
    with tqdm(total=images, desc="neighbours", unit="image", disable=not progress) as bar:
        nearest, near, farthest = _neighbours(use, features, norms, k1 + 1, bar)
    reciprocal = _expanded_reciprocal_neighbours(nearest, k1)
    encoding = _encode(features, norms, reciprocal, nearest, near, farthest)
    if k2 > 1:
        encoding = _average_over_neighbours(encoding, nearest[:, :k2])
    return _mixed_distances(
        use, query, gallery, norms[: len(query)], norms[len(query) :], encoding, farthest, lambda_value
    )


def _neighbours(
    use: distance.Devices, features: FloatArray, norms: FloatArray, count: int, bar: tqdm
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Nearest `count` images of each image, itself among them, with squared distances, and the largest of
    those.

    Returns:
        (N, count) int64, (N, count) float32, (N,) float32.
    """
    index = np.empty((len(features), count), np.int64)
    near = np.empty((len(features), count), np.float32)
    farthest = np.empty(len(features), np.float32)
    rows = use.query_rows(len(features), None)
    with tqdm(disable=True) as no_bar:
        for start in range(0, len(features), rows):
            here = slice(start, start + rows)
            block = features[here]
            nearest = nearest_of_block(use, rows, block, features, norms, count, no_bar)
            index[here] = nearest.index
            near[here] = np.maximum(nearest.value + norms[here, None], 0)
            farthest[here] = np.maximum(nearest.farthest + norms[here], 0)
            bar.update(len(block))
    # All images alike: every distance is 0, and 0 divided by anything is right.
    return index, near, np.where(farthest > 0, farthest, np.float32(1))


def _expanded_reciprocal_neighbours(nearest: IntArray, k1: int) -> scipy.sparse.csr_array:
    """The sets R*(i, k1): who counts as a neighbour of each image. (N, N) sparse, bool.

    R(i, k): the images among i's nearest k that have i among theirs. R*(i, k1) adds to R(i, k1) every set
    R(c, k1 / 2) of a member c of which more than two thirds lie in R(i, k1).
    """
    near = _reciprocal(nearest)
    half = _reciprocal(nearest[:, : int(np.around(k1 / 2)) + 1])
    # How many members of R(c, k1 / 2) lie in R(i, k1), for each member c of R(i, k1). The product alone would
    # also fill pairs (i, c) where c is no member; it is sparse all the same.
    common = (near.astype(np.int32) @ half.T.astype(np.int32)).multiply(near).tocsr()
    size = np.diff(half.indptr)
    member = common.indices
    enough = common.data > 2 / 3 * size[member]
    taken = scipy.sparse.csr_array((enough.astype(np.int32), member, common.indptr), shape=common.shape)
    expanded = ((taken @ half.astype(np.int32)) + near.astype(np.int32)).tocsr()
    expanded.eliminate_zeros()
    expanded.sort_indices()
    return expanded.astype(bool)


def _reciprocal(nearest: IntArray) -> scipy.sparse.csr_array:
    """(N, N) sparse bool: who is among whose nearest, both ways."""
    images, count = nearest.shape
    forward = scipy.sparse.csr_array(
        (np.ones(nearest.size, bool), nearest.ravel(), np.arange(0, nearest.size + 1, count)),
        shape=(images, images),
    )
    return forward.multiply(forward.T).tocsr()


def _encode(
    features: FloatArray,
    norms: FloatArray,
    neighbours: scipy.sparse.csr_array,
    nearest: IntArray,
    near: FloatArray,
    farthest: FloatArray,
) -> scipy.sparse.csr_array:
    """The vectors V: exp(-d) over each image's neighbours, divided by its sum. (N, N) sparse, float32."""
    images = len(features)
    row = np.repeat(np.arange(images), np.diff(neighbours.indptr))
    column = neighbours.indices.astype(np.int64)
    # Most neighbours are among the nearest, whose distances are known; the rest are computed.
    order = np.argsort(nearest, axis=1)
    known_key = (np.arange(images)[:, None] * images + np.take_along_axis(nearest, order, axis=1)).ravel()
    known = np.take_along_axis(near, order, axis=1).ravel()
    key = row * images + column
    place = np.minimum(np.searchsorted(known_key, key), len(known_key) - 1)
    is_known = known_key[place] == key
    squared = known[place]
    unknown = np.flatnonzero(~is_known)
    step = max(1, _PAIR_VALUES // features.shape[1])

    def fill(start: int) -> None:
        some = unknown[start : start + step]
        product = np.einsum("pd,pd->p", features[row[some]], features[column[some]])
        squared[some] = np.maximum(norms[row[some]] + norms[column[some]] - np.float32(2) * product, 0)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(0, len(unknown), step)))
    weight = np.exp(-squared / farthest[row])
    total = np.bincount(row, weights=weight, minlength=images)
    return scipy.sparse.csr_array(
        ((weight / total[row]).astype(np.float32), column, neighbours.indptr), shape=(images, images)
    )


def _average_over_neighbours(encoding: scipy.sparse.csr_array, nearest: IntArray) -> scipy.sparse.csr_array:
    """Mean of the encodings of each image's nearest (N, k2): the paper's local query expansion."""
    images, count = nearest.shape
    average = scipy.sparse.csr_array(
        (
            np.full(nearest.size, 1 / count, np.float32),
            nearest.ravel(),
            np.arange(0, nearest.size + 1, count),
        ),
        shape=(images, images),
    )
    return (average @ encoding).tocsr()


def _mixed_distances(
    use: distance.Devices,
    query: FloatArray,
    gallery: FloatArray,
    query_norms: FloatArray,
    gallery_norms: FloatArray,
    encoding: scipy.sparse.csr_array,
    farthest: FloatArray,
    lambda_value: float,
) -> FloatArray:
    """(Q, G) float32: lambda times the original distance and 1 - lambda times the Jaccard distance."""
    queries, images = len(query), encoding.shape[0]
    mixed = np.empty((queries, len(gallery)), np.float32)
    rows = use.query_rows(queries, None)
    for start in range(0, queries, rows):
        for tile in distance.distance_tiles(use, rows, query[start : start + rows], gallery, gallery_norms):
            stop = start + len(tile.values)
            original = np.maximum(tile.values + query_norms[start:stop, None], 0)
            original *= np.float32(lambda_value) / farthest[start:stop, None]
            mixed[start:stop, tile.start : tile.stop] = original

    by_column = encoding.tocsc()
    column_start, holder, weight = by_column.indptr, by_column.indices, by_column.data

    def add_jaccard(row: int) -> None:
        # The sum of minima of two vectors of sum 1; only images that share a neighbour have one.
        own = slice(encoding.indptr[row], encoding.indptr[row + 1])
        columns = encoding.indices[own]
        length = column_start[columns + 1] - column_start[columns]
        ends = np.cumsum(length)
        place = np.arange(ends[-1]) + np.repeat(column_start[columns] - (ends - length), length)
        smaller = np.minimum(weight[place], np.repeat(encoding.data[own], length))
        overlap = np.bincount(holder[place], weights=smaller, minlength=images)[queries:]
        mixed[row] += ((1 - lambda_value) * (1 - overlap / (2 - overlap))).astype(np.float32)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(add_jaccard, range(queries)))
    return mixed
