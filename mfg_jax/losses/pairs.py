"""Which images of a global batch are whose positives and negatives."""

import dataclasses

import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of A anchors with the N images of the global batch, their candidates.

    An anchor counts if it has a positive and a negative. For one that does not, every candidate is marked as both:
    reductions over its pairs are then finite, and so are their gradients, before `mean` drops it.

    Attributes:
        positive: `(A, N)` bool, other images of the anchor's identity.
        negative: `(A, N)` bool, images of other identities.
        counted: `(A,)` bool.
        counted_share: float32 scalar, the share of the N candidates that count as anchors.
    """

    positive: Array
    negative: Array
    counted: Array
    counted_share: Array

    def mean(self, losses: Array) -> Array:
        """The mean of `(A,)` losses over the anchors that count; zero where none of the global batch does.

        It divides by the number that would count if they were spread evenly. The average over equal shares of a batch,
        such as devices', is therefore the mean over the whole batch, even where one has more such anchors.
        """
        anchors, candidates = self.positive.shape
        divisor = anchors * jnp.maximum(self.counted_share, 1.0 / candidates)
        return jnp.sum(jnp.where(self.counted, losses, 0.0)) / divisor


def find_pairs(anchor_ids: Array, candidate_ids: Array, anchor_positions: Array) -> Pairs:
    """Finds the pairs.

    On several devices the anchors are a device's own images and the candidates those of the whole global batch, so
    that losses do not depend on the number of devices.

    Args:
        anchor_ids: `(A,)` integers.
        candidate_ids: `(N,)` integers, the anchors' among them.
        anchor_positions: `(A,)` integers, each anchor's own place among the candidates: it is not its own positive.
    """
    places = jnp.arange(candidate_ids.shape[0], dtype=anchor_positions.dtype)
    same = anchor_ids[:, None] == candidate_ids[None, :]
    positive, negative = same & (anchor_positions[:, None] != places[None, :]), ~same
    counted = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)

    of_identity = jnp.sum(candidate_ids[:, None] == candidate_ids[None, :], axis=1, dtype=jnp.int32)
    counts_as_anchor = (of_identity > 1) & (of_identity < candidate_ids.shape[0])
    return Pairs(
        positive=positive | ~counted[:, None],
        negative=negative | ~counted[:, None],
        counted=counted,
        counted_share=jnp.mean(counts_as_anchor, dtype=jnp.float32),
    )
