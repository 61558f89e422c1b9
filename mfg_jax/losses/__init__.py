"""The losses, in float32: identity classification, and metric losses of vectors whose pairs span the global batch.

The paper's excerpts do not give its losses. Cross-entropy with batch-hard triplet is our decision (MGN and BoT use the
same pair); the other two are alternatives of the field.
"""

from mfg_jax.losses.circle import circle_loss
from mfg_jax.losses.identity import smoothed_cross_entropy
from mfg_jax.losses.pairs import Pairs, find_pairs
from mfg_jax.losses.triplet import batch_hard_triplet, weighted_triplet

# By name; "none" is for identity classification alone.
METRIC_LOSSES = ("triplet", "weighted_triplet", "circle", "none")

__all__ = [
    "METRIC_LOSSES",
    "Pairs",
    "batch_hard_triplet",
    "circle_loss",
    "find_pairs",
    "smoothed_cross_entropy",
    "weighted_triplet",
]
