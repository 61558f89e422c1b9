"""Batch normalisation (Ioffe and Szegedy, ICML 2015) over the global batch, in the fewest passes over the map."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

EPSILON = 1e-5
MOMENTUM = 0.9


class BatchNorm(nn.Module):
    """Normalises each channel by the batch's mean and variance, or by running ones, then scales and shifts it.

    The names of parameters and statistics, the biased running variance and the result are those of
    `flax.linen.BatchNorm`. The map is only ever multiplied by one vector and shifted by another, so that its gradient
    needs sums of `dy` and `dy * x` and no centred copy of the map, which Flax's writes and reads once more for every
    layer (docs/performance.md, "Training step").

    Attributes:
        use_running_average: take the running statistics, and leave them as they are.
        axis_name: of the devices that share a batch; None for one device's own.
        use_bias: shift too.
        scale_init: of the scale.
        dtype: of the result; statistics are float32.
    """

    use_running_average: bool
    axis_name: str | None = None
    use_bias: bool = True
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(..., C)` to the same shape."""
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = (
            self.param("bias", nn.initializers.zeros_init(), channels, jnp.float32) if self.use_bias else None
        )
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            axes = tuple(range(x.ndim - 1))
            moments = jnp.mean(x, axes), jnp.mean(x * x, axes)
            if self.axis_name is not None and not self.is_initializing():
                moments = jax.lax.pmean(moments, self.axis_name)
            mean, mean_square = moments
            var = jnp.maximum(mean_square - mean**2, 0.0)  # rounding may leave it below zero
            if not self.is_initializing():
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var

        factor = scale * jax.lax.rsqrt(var + EPSILON)
        offset = -mean * factor if bias is None else bias - mean * factor
        y = x * jnp.expand_dims(factor, range(x.ndim - 1)) + jnp.expand_dims(offset, range(x.ndim - 1))
        return y.astype(self.dtype)
