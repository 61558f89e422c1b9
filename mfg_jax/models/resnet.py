"""Residual stages (He et al., CVPR 2016), as the pieces that MFG-Net's trunk and branches are made of.

Max pooling is a maximum over nine shifted views, for the CPU's sake (130 ms against 536 ms with its gradient at
32x128x128x64, two cores).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from mfg_jax.models.attention import SqueezeExcitation
from mfg_jax.models.convolution import Convolution, PointwiseConv
from mfg_jax.models.instance_batch_norm import InstanceBatchNorm

# Blocks in each of the four stages, and whether they are bottlenecks. 10 is our small one, for CPUs.
STAGE_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
BOTTLENECK_DEPTHS = (50, 101)
BOTTLENECK_EXPANSION = 4

# Makes a batch normalisation; called with `name` and, for the last one of a block, `scale_init`.
Norm = Callable[..., nn.Module]


def stage_width(depth: int, width: int, stage: int) -> int:
    """Output channels of `stage` (1 to 4) in a network of `depth` whose first stage is `width` wide."""
    return width * 2 ** (stage - 1) * (BOTTLENECK_EXPANSION if depth in BOTTLENECK_DEPTHS else 1)


def max_pool_3x3(x: Array) -> Array:
    """3x3 max pooling with stride 2 and one pixel of padding: `(B, H, W, C)` to `(B, H/2, W/2, C)`, rounded up."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    views = [padded[:, i : i + height : 2, j : j + width : 2, :] for i in range(3) for j in range(3)]
    pooled = views[0]
    for view in views[1:]:
        pooled = jnp.maximum(pooled, view)
    return pooled


class Stem(nn.Module):
    """From pixels to the first stage.

    Attributes:
        width: output channels.
        stride: 4 is ResNet's own stem (7x7 stride 2, then max pooling); 2 is one 3x3 convolution of stride 2, for
            small images.
        norm: makes the batch normalisation.
        dtype: the type to compute in.
    """

    width: int
    stride: int
    norm: Norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, 3)` to `(B, H / stride, W / stride, width)`."""
        if self.stride not in (2, 4):
            raise ValueError(f"A stem has stride 2 or 4, not {self.stride}.")
        size = 7 if self.stride == 4 else 3
        x = Convolution(self.width, size, 2, dtype=self.dtype, name="conv")(x)
        x = nn.relu(self.norm(name="norm")(x))
        return max_pool_3x3(x) if self.stride == 4 else x


class ResidualBlock(nn.Module):
    """One residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 where `bottleneck`.

    The stride is on the 3x3 convolution (torchvision's ResNet does the same). The last normalisation's scale starts
    at zero, so that every block starts as the identity (Goyal et al., 2017).

    Attributes:
        features: channels inside the block; a bottleneck puts out four times as many.
        stride: of the block.
        bottleneck: which of the two kinds.
        ibn: the first normalisation is an `InstanceBatchNorm`.
        attention_reduction: squeeze-and-excitation before the addition, with this reduction; None for none.
        norm: makes the batch normalisation.
        dtype: the type to compute in.
    """

    features: int
    stride: int
    bottleneck: bool
    ibn: bool
    attention_reduction: int | None
    norm: Norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, C)` to `(B, H / stride, W / stride, C')`."""
        conv3x3 = partial(Convolution, self.features, dtype=self.dtype)
        out_features = self.features * (BOTTLENECK_EXPANSION if self.bottleneck else 1)
        last_scale = nn.initializers.zeros_init()
        norm1 = (
            InstanceBatchNorm(self.norm, self.dtype, name="norm1") if self.ibn else self.norm(name="norm1")
        )
        if self.bottleneck:
            y = PointwiseConv(self.features, dtype=self.dtype, name="conv1")(x)
            y = nn.relu(norm1(y))
            y = nn.relu(self.norm(name="norm2")(conv3x3(stride=self.stride, name="conv2")(y)))
            y = PointwiseConv(out_features, dtype=self.dtype, name="conv3")(y)
            y = self.norm(name="norm3", scale_init=last_scale)(y)
        else:
            y = nn.relu(norm1(conv3x3(stride=self.stride, name="conv1")(x)))
            y = self.norm(name="norm2", scale_init=last_scale)(conv3x3(name="conv2")(y))
        if self.attention_reduction is not None:
            y = SqueezeExcitation(self.attention_reduction, dtype=self.dtype, name="attention")(y)

        if x.shape != y.shape:
            x = PointwiseConv(out_features, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNetStage(nn.Module):
    """Blocks `first` to `last` (exclusive) of one ResNet stage; only block 0 strides.

    A stage can be cut in two: MFG-Net's trunk may end inside one.

    Attributes:
        depth: 10, 18, 34, 50 or 101.
        width: channels of the first stage inside a block (64 in the published networks).
        stage: 1 to 4.
        first: first block to run.
        last: the block after the last one to run; None for all that are left.
        stride: of block 0.
        ibn: instance normalisation of half the channels in every block; never in stage 4, as published.
        attention_reduction: for squeeze-and-excitation in every block; None for none.
        norm: makes the batch normalisation.
        dtype: the type to compute in.
        rematerialise: keep only what goes into a block for its gradient, and compute the rest again.
    """

    depth: int
    width: int
    stage: int
    stride: int
    norm: Norm
    first: int = 0
    last: int | None = None
    ibn: bool = False
    attention_reduction: int | None = None
    dtype: Any = jnp.float32
    rematerialise: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, C)` to `(B, H', W', C')`."""
        residual_block = nn.remat(ResidualBlock) if self.rematerialise else ResidualBlock
        last = STAGE_BLOCKS[self.depth][self.stage - 1] if self.last is None else self.last
        for block in range(self.first, last):
            x = residual_block(
                features=self.width * 2 ** (self.stage - 1),
                stride=self.stride if block == 0 else 1,
                bottleneck=self.depth in BOTTLENECK_DEPTHS,
                ibn=self.ibn and self.stage < 4,
                attention_reduction=self.attention_reduction,
                norm=self.norm,
                dtype=self.dtype,
                name=f"block{block}",
            )(x)
        return x
