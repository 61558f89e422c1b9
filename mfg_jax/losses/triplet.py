"""Triplet losses with Euclidean distance: batch-hard, and with weights over all pairs."""

import jax
import jax.numpy as jnp
from jax import Array

from mfg_jax.losses.pairs import Pairs

_MINIMUM_SQUARED_DISTANCE = 1e-12


def batch_hard_triplet(anchors: Array, candidates: Array, pairs: Pairs, margin: float | None) -> Array:
    """Batch-hard triplet loss (Hermans et al., 2017, equation 5).

    Each anchor is set against the farthest candidate of its identity and the nearest one of another.

    Args:
        anchors: `(A, D)` float.
        candidates: `(N, D)` float, the anchors among them.
        pairs: of the A anchors and N candidates.
        margin: how much farther the negative has to be; None for the soft margin, log(1 + exp(d_p - d_n)).

    Returns:
        A float32 scalar: the mean over anchors that have a positive and a negative; zero where none has.
    """
    anchors = anchors.astype(jnp.float32)
    candidates = candidates.astype(jnp.float32)
    # Mining needs no gradient, and only the order of the distances.
    squared = jax.lax.stop_gradient(
        jnp.sum(anchors**2, axis=1)[:, None]
        + jnp.sum(candidates**2, axis=1)[None, :]
        - 2.0 * jnp.matmul(anchors, candidates.T, precision=jax.lax.Precision.HIGHEST)
    )
    farthest = jnp.argmax(jnp.where(pairs.positive, squared, -jnp.inf), axis=1)
    nearest = jnp.argmin(jnp.where(pairs.negative, squared, jnp.inf), axis=1)
    gap = _distance(anchors, candidates[farthest]) - _distance(anchors, candidates[nearest])
    return pairs.mean(jax.nn.softplus(gap) if margin is None else jax.nn.relu(gap + margin))


def weighted_triplet(anchors: Array, candidates: Array, pairs: Pairs) -> Array:
    """Weighted regularisation triplet loss (Ye et al., TPAMI 2021, "AGW", section 4).

    With an anchor's distances d_p to its positives and d_n to its negatives, and weights over each of the two sets,
    softmax(d_p) and softmax(-d_n), it is log(1 + exp(sum(w_p d_p) - sum(w_n d_n))): farther positives and nearer
    negatives weigh more, and there is no margin to choose. The gradient passes through the weights as well.

    An anchor is not its own positive, as with the other losses here; AGW's published code counts it, at distance zero.

    Args:
        anchors: `(A, D)` float.
        candidates: `(N, D)` float, the anchors among them.
        pairs: of the A anchors and N candidates.

    Returns:
        A float32 scalar: the mean over anchors that have a positive and a negative; zero where none has.
    """
    anchors = anchors.astype(jnp.float32)
    candidates = candidates.astype(jnp.float32)
    distances = _distance(anchors[:, None, :], candidates[None, :, :])
    positive_weights = jax.nn.softmax(jnp.where(pairs.positive, distances, -jnp.inf), axis=1)
    negative_weights = jax.nn.softmax(jnp.where(pairs.negative, -distances, -jnp.inf), axis=1)
    gap = jnp.sum(positive_weights * distances, axis=1) - jnp.sum(negative_weights * distances, axis=1)
    return pairs.mean(jax.nn.softplus(gap))


def _distance(x: Array, y: Array) -> Array:
    """Euclidean distance over the last axis.

    By difference, which is exact for near-equal vectors; bounded below, so that the gradient at zero distance is zero
    and not infinite.
    """
    return jnp.sqrt(jnp.maximum(jnp.sum((x - y) ** 2, axis=-1), _MINIMUM_SQUARED_DISTANCE))
