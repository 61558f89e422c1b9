"""Circle loss."""

import jax
import jax.numpy as jnp
from jax import Array

from mfg_jax.losses.pairs import Pairs

_MINIMUM_SQUARED_NORM = 1e-12


def circle_loss(anchors: Array, candidates: Array, pairs: Pairs, margin: float, scale: float) -> Array:
    """Circle loss on cosine similarity, by pairs (Sun et al., CVPR 2020, equations 4 to 8).

    With an anchor's similarities s_p to its positives and s_n to its negatives, it is

        log(1 + sum_n exp(scale a_n (s_n - margin)) * sum_p exp(-scale a_p (s_p - 1 + margin)))
        a_p = max(0, 1 + margin - s_p),  a_n = max(0, s_n + margin),

    where the gradient does not pass through the weights a_p and a_n (equation 10).

    Args:
        anchors: `(A, D)` float, of any length. A vector of length zero has similarity zero to all, and no gradient.
        candidates: `(N, D)` float, the anchors among them.
        pairs: of the A anchors and N candidates.
        margin: m, in [0, 1]: positives are to be more similar than 1 - m, negatives less than m.
        scale: gamma, positive. The loss of a wrong pair grows in proportion to it.

    Returns:
        A float32 scalar: the mean over anchors that have a positive and a negative; zero where none has.
    """
    # In float32 proper even where matrix products have less by default: the scale multiplies their error.
    similarity = jnp.matmul(
        _unit(anchors.astype(jnp.float32)),
        _unit(candidates.astype(jnp.float32)).T,
        precision=jax.lax.Precision.HIGHEST,
    )
    weight_p = jax.lax.stop_gradient(jax.nn.relu(1.0 + margin - similarity))
    weight_n = jax.lax.stop_gradient(jax.nn.relu(similarity + margin))
    logits_p = -scale * weight_p * (similarity - (1.0 - margin))
    logits_n = scale * weight_n * (similarity - margin)
    total = jax.nn.logsumexp(jnp.where(pairs.positive, logits_p, -jnp.inf), axis=1) + jax.nn.logsumexp(
        jnp.where(pairs.negative, logits_n, -jnp.inf), axis=1
    )
    return pairs.mean(jax.nn.softplus(total))


def _unit(x: Array) -> Array:
    """The `(B, D)` vectors at unit length; those of no length stay."""
    squared = jnp.sum(x**2, axis=1, keepdims=True)
    has_length = squared > _MINIMUM_SQUARED_NORM
    # Chosen before the root, too: the gradient of what is not used has to be finite all the same.
    return jnp.where(has_length, x * jax.lax.rsqrt(jnp.where(has_length, squared, 1.0)), 0.0)
