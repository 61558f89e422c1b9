"""Better embeddings from several: query expansion by the nearest gallery images, and averaging with the
mirror image.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mfg_jax.errors import UserError
from mfg_jax.retrieval.retrieval_set import FloatArray, as_features
from mfg_jax.retrieval.search import search


def expand_queries(
    query_features: Any,
    gallery_features: Any,
    neighbours: int = 5,
    alpha: float = 3.0,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> FloatArray:
    """Alpha query expansion: replaces a query by a weighted mean of itself and its nearest gallery images.

    The query has weight 1 and a neighbour its cosine similarity to the power of `alpha` (Radenovic et al.,
    "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019); a negative similarity counts as
    0. The mean is normalised again. Whether it was on belongs beside every number it made.

    The neighbours come from the whole gallery: identities and cameras are not looked at, as they would not be
    known in use. On VeRi-776 the query image itself is in the gallery, and is one of them.

    Args:
        query_features: (Q, D) float32 of unit norm.
        gallery_features: (G, D) float32 of unit norm.
        neighbours: How many gallery images, at most G; 0 changes nothing.
        alpha: Power of the similarity; 0 is the plain mean.
        devices: As in `search`.

    Returns:
        (Q, D) float32 of unit norm.

    Raises:
        UserError: Embeddings are not of unit norm, alpha is negative, or what `search` raises.
    """
    query = as_features(query_features, "query_features")
    gallery = as_features(gallery_features, "gallery_features")
    if alpha < 0 or neighbours < 0:
        raise UserError(f"alpha is {alpha} and neighbours {neighbours}; neither may be negative.")
    _check_unit_norm(query, "query")
    if neighbours == 0:
        return query.copy()
    index, _ = search(query, gallery, neighbours, devices=devices)
    found = np.unique(index)
    _check_unit_norm(gallery[found], "gallery")
    expanded = query.copy()
    for place in range(neighbours):
        neighbour = gallery[index[:, place]]
        similarity = np.maximum(np.einsum("qd,qd->q", query, neighbour), np.float32(0))
        expanded += (similarity ** np.float32(alpha))[:, None] * neighbour
    return _normalised(expanded)


def average_with_flipped(features: Any, flipped_features: Any) -> FloatArray:
    """Flip averaging: the normalised mean of the embeddings of images and of their mirror images.

    Args:
        features: (N, D) float32 of the images.
        flipped_features: (N, D) float32 of the same images, mirrored left to right.

    Returns:
        (N, D) float32 of unit norm; all zero where the two cancel out.

    Raises:
        UserError: The shapes differ.
    """
    straight = as_features(features, "features")
    flipped = as_features(flipped_features, "flipped_features")
    if straight.shape != flipped.shape:
        raise UserError(
            f"There are {straight.shape} embeddings of images and {flipped.shape} of mirror images; expected "
            "equal shapes."
        )
    return _normalised(straight + flipped)


def _normalised(features: FloatArray) -> FloatArray:
    norm = np.sqrt(np.einsum("nd,nd->n", features, features))
    return features / np.maximum(norm, np.finfo(np.float32).tiny)[:, None]


def _check_unit_norm(features: FloatArray, name: str) -> None:
    norm = np.sqrt(np.einsum("nd,nd->n", features, features))
    if not np.allclose(norm, 1, atol=1e-3):
        worst = norm[np.argmax(np.abs(norm - 1))]
        raise UserError(
            f"Query expansion weighs by cosine similarity and needs embeddings of unit norm; a {name} "
            f"embedding has norm {worst:.3g}. Divide each by its norm first."
        )
