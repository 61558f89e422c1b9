"""MFG-Net: one global and several fine-grained features of a vehicle, joined into one embedding.

From the paper (Xu et al., Array 14:100152, 2022): the global feature is kept, the feature map is segmented into
parts for several fine-grained features, channel attention strengthens the network, and retrieval is by Euclidean
distance. The rest is our reading, after MGN (Wang et al., ACM MM 2018), and every choice is an attribute:

    images -> trunk (stem, stages 1 and 2, first block of stage 3)
           -> for each granularity g: its own rest of stage 3, stage 4, squeeze-and-excitation
                -> one pooled vector of the whole map and, where g > 1, one of each of g stripes
           -> each vector reduced by a matrix product and batch normalisation
           -> all of them side by side, at unit norm
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import Array

from mfg_jax.models.attention import SqueezeExcitation
from mfg_jax.models.parts import pool, stripe_bounds
from mfg_jax.models.resnet import Norm, ResNetStage, Stem

ATTENTION_PLACES = ("none", "branch", "block")


@flax.struct.dataclass
class MFGNetOutput:
    """What the network says of a batch of B images.

    Attributes:
        embedding: `(B, vectors * head_width)` float32 of unit norm; what retrieval compares.
        logits: `(vectors, B, num_identities)` float32, one classifier for each vector.
        global_features: `(granularities, B, head_width)` float32, the global vectors before their batch normalisation;
            the triplet loss works on these (the two losses prefer different spaces: BNNeck, Luo et al., CVPRW 2019).
    """

    embedding: Array
    logits: Array
    global_features: Array


class Head(nn.Module):
    """Reduces one pooled vector and classifies it.

    Attributes:
        width: of the reduced vector.
        num_identities: classes.
        norm: makes the batch normalisation.
        dtype: the type to compute the matrix products in.
    """

    width: int
    num_identities: int
    norm: Norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """Maps `(B, C)` to the reduced vector `(B, width)`, the same normalised, and logits `(B, num_identities)`."""
        reduced = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="reduce")(x).astype(jnp.float32)
        normalised = self.norm(name="norm", use_bias=False, dtype=jnp.float32)(reduced)
        classifier = nn.Dense(
            self.num_identities,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.001),
            name="classify",
        )
        return reduced, normalised, classifier(normalised).astype(jnp.float32)


class Trunk(nn.Module):
    """What all granularities share: stem, stages 1 and 2, and the first block of stage 3."""

    depth: int
    width: int
    stem_stride: int
    attention_reduction: int | None
    norm: Norm
    dtype: Any

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps `(B, H, W, 3)` to `(B, H / (4 * stem_stride), W / (4 * stem_stride), C)`."""
        stage = partial(
            ResNetStage,
            depth=self.depth,
            width=self.width,
            attention_reduction=self.attention_reduction,
            norm=self.norm,
            dtype=self.dtype,
        )
        x = Stem(self.width, self.stem_stride, self.norm, self.dtype, name="stem")(images.astype(self.dtype))
        x = stage(stage=1, stride=1, name="stage1")(x)
        x = stage(stage=2, stride=2, name="stage2")(x)
        return stage(stage=3, stride=2, last=1, name="stage3")(x)


class Branch(nn.Module):
    """One granularity: its own rest of stage 3 and stage 4, attention, and the pooled vectors."""

    granularity: int
    depth: int
    width: int
    last_stride: int
    pooling: str
    attention: str
    attention_reduction: int
    norm: Norm
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """Maps `(B, H, W, C)` to pooled vectors `(B, C2)`: the global one, then the stripes' from the top."""
        stage = partial(
            ResNetStage,
            depth=self.depth,
            width=self.width,
            attention_reduction=self.attention_reduction if self.attention == "block" else None,
            norm=self.norm,
            dtype=self.dtype,
        )
        x = stage(stage=3, stride=2, first=1, name="stage3")(x)
        x = stage(stage=4, stride=self.last_stride, name="stage4")(x)
        if self.attention == "branch":
            x = SqueezeExcitation(self.attention_reduction, dtype=self.dtype, name="attention")(x)
        vectors = [pool(x, self.pooling)]
        if self.granularity > 1:
            vectors += [pool(x[:, a:b], self.pooling) for a, b in stripe_bounds(x.shape[1], self.granularity)]
        return vectors


class MFGNet(nn.Module):
    """The whole network. The defaults are the paper's setting as we read it: ResNet-50, 256 x 256 pixels.

    Attributes:
        num_identities: classes of the training set.
        depth: ResNet depth: 10, 18, 34, 50 or 101.
        width: channels of the first stage (64 in the published networks).
        stem_stride: 4 (7x7 and max pooling) or 2 (one 3x3, for small images).
        last_stride: stride of stage 4; 1 keeps the map twice as tall for the stripes.
        granularities: one branch for each; g > 1 adds g stripes. (1, 2, 3) makes 3 + 5 = 8 vectors.
        attention: where squeeze-and-excitation sits: "none", "branch" (at each branch's end) or "block" (in every
            residual block).
        attention_reduction: its hidden layer is this many times narrower.
        pooling: "average", "max" or "gem".
        head_width: width of each reduced vector.
        dtype: the type to compute in; parameters, statistics and outputs are float32.
        axis_name: the mapped axis over which batch statistics are averaged; None on a single device.
    """

    num_identities: int
    depth: int = 50
    width: int = 64
    stem_stride: int = 4
    last_stride: int = 1
    granularities: Sequence[int] = (1, 2, 3)
    attention: str = "branch"
    attention_reduction: int = 16
    pooling: str = "max"
    head_width: int = 256
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array, train: bool) -> MFGNetOutput:
        """Runs the network.

        Args:
            images: `(B, H, W, 3)` float32, normalised as in `mfg_jax.data.augment.normalise`.
            train: normalise by the batch's statistics and update the running ones.

        Returns:
            Embedding, logits and global features.

        Raises:
            ValueError: an attribute has a value outside its list, or the map is too small for the stripes.
        """
        if self.attention not in ATTENTION_PLACES:
            raise ValueError(f"attention is one of {', '.join(ATTENTION_PLACES)}, not {self.attention!r}.")
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        features = Trunk(
            depth=self.depth,
            width=self.width,
            stem_stride=self.stem_stride,
            attention_reduction=self.attention_reduction if self.attention == "block" else None,
            norm=norm,
            dtype=self.dtype,
            name="trunk",
        )(images)

        normalised: list[Array] = []
        logits: list[Array] = []
        global_features: list[Array] = []
        for granularity in self.granularities:
            vectors = Branch(
                granularity=granularity,
                depth=self.depth,
                width=self.width,
                last_stride=self.last_stride,
                pooling=self.pooling,
                attention=self.attention,
                attention_reduction=self.attention_reduction,
                norm=norm,
                dtype=self.dtype,
                name=f"branch{granularity}",
            )(features)
            for index, vector in enumerate(vectors):
                part = "global" if index == 0 else f"stripe{index}"
                head = Head(
                    self.head_width, self.num_identities, norm, self.dtype, name=f"head{granularity}_{part}"
                )
                reduced, normed, scores = head(vector)
                normalised.append(normed)
                logits.append(scores)
                if index == 0:
                    global_features.append(reduced)

        embedding = jnp.concatenate(normalised, axis=-1)
        norms = jnp.sqrt(jnp.maximum(jnp.sum(embedding**2, axis=-1, keepdims=True), 1e-12))
        return MFGNetOutput(
            embedding=embedding / norms, logits=jnp.stack(logits), global_features=jnp.stack(global_features)
        )
