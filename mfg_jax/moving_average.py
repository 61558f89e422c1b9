"""Exponential moving averages of a network's variables (Polyak averaging), to evaluate in place of the last ones."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Tree = Any


def update_average(average: Tree, current: Tree, decay: float, updates: Array) -> Tree:
    """Moves the averages towards the variables of the step just done.

    The decay is the smaller of `decay` and `(1 + updates) / (10 + updates)`, as TensorFlow's ExponentialMovingAverage
    has it: initial weights are soon forgotten, and early averages are over about the last tenth of the steps.

    Batch statistics are averaged with the same decay as the parameters. The network's own running ones belong to its
    last parameters alone; to first order in how far parameters moved, the statistics of averaged parameters are the
    averages of their statistics.

    Args:
        average: the averages so far, float32.
        current: the variables after the step, of the same structure.
        decay: in [0, 1]; averages are over about `1 / (1 - decay)` steps.
        updates: int32 scalar, steps averaged before this one.

    Returns:
        The new averages.
    """
    share = jnp.maximum(1.0 - decay, 9.0 / (10.0 + updates.astype(jnp.float32)))
    return jax.tree.map(lambda mean, value: mean + share * (value - mean), average, current)
