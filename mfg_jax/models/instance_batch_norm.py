"""Instance and batch normalisation side by side: the "a" form of IBN-Net (Pan et al., ECCV 2018, section 3.2)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class InstanceBatchNorm(nn.Module):
    """Normalises the first half of the channels by each image's own statistics, the others by the batch's.

    The first half loses what a camera does to a whole picture (light, contrast, tint); the second keeps it.

    Attributes:
        norm: makes the batch normalisation of the second half.
        dtype: the type to compute in.
    """

    norm: Callable[..., nn.Module]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, C)` to the same shape."""
        half = x.shape[-1] // 2
        by_image = nn.InstanceNorm(epsilon=1e-5, name="instance")(x[..., :half].astype(jnp.float32))
        by_batch = self.norm(name="batch")(x[..., half:])
        return jnp.concatenate([by_image.astype(self.dtype), by_batch], axis=-1)
