"""The losses, in float32: label-smoothed cross-entropy and batch-hard triplet.

The paper's excerpts do not give its losses; these two are our decision (see MGN and BoT, which use the same pair).
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array

_MINIMUM_SQUARED_DISTANCE = 1e-12


def smoothed_cross_entropy(logits: Array, labels: Array, smoothing: float) -> Array:
    """Mean cross-entropy against labels smoothed as in Szegedy et al., CVPR 2016, section 7.

    Args:
        logits: `(..., B, C)` float; leading axes are heads, which count equally.
        labels: `(B,)` integers in `[0, C)`.
        smoothing: the share of the target spread evenly over all C classes.

    Returns:
        A float32 scalar.
    """
    logits = logits.astype(jnp.float32)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), smoothing)
    targets = jnp.broadcast_to(targets, logits.shape)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def batch_hard_triplet(
    anchors: Array,
    anchor_ids: Array,
    candidates: Array,
    candidate_ids: Array,
    anchor_positions: Array,
    margin: float | None,
) -> Array:
    """Batch-hard triplet loss with Euclidean distance (Hermans et al., 2017, equation 5).

    Each anchor is set against the farthest candidate of its identity and the nearest one of another. On several
    devices the anchors are a device's own images and the candidates those of the whole global batch, so that the
    triplets do not depend on the number of devices.

    Args:
        anchors: `(A, D)` float.
        anchor_ids: `(A,)` integers.
        candidates: `(N, D)` float, the anchors among them.
        candidate_ids: `(N,)` integers.
        anchor_positions: `(A,)` integers, each anchor's own place among the candidates: it is not its own positive.
        margin: how much farther the negative has to be; None for the soft margin, log(1 + exp(d_p - d_n)).

    Returns:
        A float32 scalar: the mean over anchors that have a positive and a negative; zero where none has.
    """
    anchors = anchors.astype(jnp.float32)
    candidates = candidates.astype(jnp.float32)
    same = anchor_ids[:, None] == candidate_ids[None, :]
    itself = (
        anchor_positions[:, None] == jnp.arange(candidates.shape[0], dtype=anchor_positions.dtype)[None, :]
    )
    positive, negative = same & ~itself, ~same

    # Mining needs no gradient, and only the order of the distances.
    squared = jax.lax.stop_gradient(
        jnp.sum(anchors**2, axis=1)[:, None]
        + jnp.sum(candidates**2, axis=1)[None, :]
        - 2.0 * jnp.matmul(anchors, candidates.T, precision=jax.lax.Precision.HIGHEST)
    )
    farthest = jnp.argmax(jnp.where(positive, squared, -jnp.inf), axis=1)
    nearest = jnp.argmin(jnp.where(negative, squared, jnp.inf), axis=1)

    def distance_to(chosen: Array) -> Array:
        # By difference, which is exact for near-equal vectors; bounded below, so that the gradient at zero distance
        # is zero and not infinite.
        difference = anchors - candidates[chosen]
        return jnp.sqrt(jnp.maximum(jnp.sum(difference**2, axis=1), _MINIMUM_SQUARED_DISTANCE))

    gap = distance_to(farthest) - distance_to(nearest)
    losses = jax.nn.softplus(gap) if margin is None else jax.nn.relu(gap + margin)
    counted = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    return jnp.sum(jnp.where(counted, losses, 0.0)) / jnp.maximum(jnp.sum(counted, dtype=jnp.float32), 1.0)
