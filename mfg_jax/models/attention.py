"""Channel attention: squeeze-and-excitation (Hu et al., CVPR 2018, section 3)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1) computed from the channels' spatial means.

    Attributes:
        reduction: how many times narrower the hidden layer is than the input; it is never under 4 wide.
        dtype: the type to compute in.
    """

    reduction: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, C)` to the same shape."""
        channels = x.shape[-1]
        squeezed = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(self.dtype)
        hidden = nn.relu(
            nn.Dense(max(4, channels // self.reduction), dtype=self.dtype, name="squeeze")(squeezed)
        )
        gate = nn.sigmoid(nn.Dense(channels, dtype=self.dtype, name="excite")(hidden))
        return x * gate[:, None, None, :]
