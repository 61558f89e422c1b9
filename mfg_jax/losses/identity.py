"""Identity classification: label-smoothed cross-entropy."""

import jax
import jax.numpy as jnp
import optax
from jax import Array


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
