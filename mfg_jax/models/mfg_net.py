"""MFG-Net: one global and several fine-grained features of a vehicle, joined into one embedding.

From the paper (Xu et al., Array 14:100152, 2022): the global feature is kept, the feature map is segmented into
parts for several fine-grained features, channel attention strengthens the network, and retrieval is by Euclidean
distance. The rest is our reading, after MGN (Wang et al., ACM MM 2018), and every choice is an attribute:

    images -> trunk (stem, stages 1 and 2, first block of stage 3)
           -> for each granularity g: its own rest of stage 3, stage 4, squeeze-and-excitation
                -> one pooled vector of the whole map and, where g > 1, one of each of g stripes
           -> each vector reduced by a matrix product and batch normalisation
           -> all of them side by side, at unit norm

Other settings of the same code are the field's baselines: see `configs/networks.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import Array

from mfg_jax.models.attention import SqueezeExcitation
from mfg_jax.models.batch_norm import BatchNorm
from mfg_jax.models.materialised import materialised
from mfg_jax.models.parts import Granularity, granularity_name, grid, pool_with_parts
from mfg_jax.models.resnet import STAGE_BLOCKS, Norm, ResNetStage, Stem

ATTENTION_PLACES = ("none", "branch", "block")
VECTOR_CHOICES = ("all", "globals", "parts")

# A place between residual blocks: (stage, block), the block that comes next.
Place = tuple[int, int]
_END: Place = (5, 0)


@flax.struct.dataclass
class MFGNetOutput:
    """What the network says of a batch of B images. With the defaults there are V = 8 vectors, 3 of them global.

    Attributes:
        embedding: `(B, D)` float32 of unit norm; what retrieval compares. D is the summed width of its vectors.
        logits: `(I, B, num_identities)` float32, one classifier for each vector with an identity loss.
        triplet_features: `(T, B, W)` float32, the vectors that the metric loss works on, before their batch
            normalisation (the two losses prefer different spaces: BNNeck, Luo et al., CVPRW 2019). T is 0 where
            the network has none.
    """

    embedding: Array
    logits: Array
    triplet_features: Array


class Head(nn.Module):
    """Reduces one pooled vector, normalises and classifies it.

    Attributes:
        width: of the reduced vector; 0 leaves the pooled one as it is.
        num_identities: classes; None for no classifier.
        bnneck: batch normalisation between the vector of the metric loss and that of classifier and embedding.
        norm: makes the batch normalisation.
        dtype: the type to compute the matrix products in.
    """

    width: int
    num_identities: int | None
    bnneck: bool
    norm: Norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array | None]:
        """Maps `(B, C)` to the reduced vector `(B, width)`, the same normalised, and logits `(B, num_identities)`."""
        reduced = x
        if self.width:
            reduced = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="reduce")(x)
        reduced = reduced.astype(jnp.float32)
        normalised = (
            self.norm(name="norm", use_bias=False, dtype=jnp.float32)(reduced) if self.bnneck else reduced
        )
        if self.num_identities is None:
            return reduced, normalised, None
        classifier = nn.Dense(
            self.num_identities,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.001),
            name="classify",
        )
        return reduced, normalised, classifier(normalised).astype(jnp.float32)


class Trunk(nn.Module):
    """What all granularities share: the stem, and the residual blocks before `end`."""

    depth: int
    width: int
    stem_stride: int
    last_stride: int
    end: Place
    ibn: bool
    attention_reduction: int | None
    norm: Norm
    dtype: Any
    rematerialise: bool = False

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps `(B, H, W, 3)` to the feature map `(B, H', W', C)`."""
        x = Stem(self.width, self.stem_stride, self.norm, self.dtype, name="stem")(images.astype(self.dtype))
        stage = partial(
            ResNetStage,
            depth=self.depth,
            width=self.width,
            ibn=self.ibn,
            attention_reduction=self.attention_reduction,
            norm=self.norm,
            dtype=self.dtype,
            rematerialise=self.rematerialise,
        )
        return _run_stages(x, stage, self.depth, (1, 0), self.end, self.last_stride)


class Branch(nn.Module):
    """One granularity: its own residual blocks from `start` on, attention, and the pooled vectors."""

    granularity: Granularity
    with_global: bool
    depth: int
    width: int
    start: Place
    last_stride: int
    pooling: str
    attention: str
    attention_reduction: int
    ibn: bool
    norm: Norm
    dtype: Any
    rematerialise: bool = False

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Maps `(B, H, W, C)` to pooled vectors `(B, C2)`: "global", then the parts' from the top left."""
        stage = partial(
            ResNetStage,
            depth=self.depth,
            width=self.width,
            ibn=self.ibn,
            attention_reduction=self.attention_reduction if self.attention == "block" else None,
            norm=self.norm,
            dtype=self.dtype,
            rematerialise=self.rematerialise,
        )
        # Attention and every pooling read it.
        x = materialised(_run_stages(x, stage, self.depth, self.start, _END, self.last_stride))
        if self.attention == "branch":
            x = SqueezeExcitation(self.attention_reduction, dtype=self.dtype, name="attention")(x)
        whole, parts = pool_with_parts(x, self.granularity, self.pooling)
        vectors = {"global": whole} if self.with_global or not parts else {}
        vectors |= {f"part{index}": part for index, part in enumerate(parts, start=1)}
        return vectors


def _run_stages(
    x: Array, stage: Callable[..., ResNetStage], depth: int, start: Place, end: Place, last_stride: int
) -> Array:
    """Runs the residual blocks from `start` up to, not including, `end`."""
    for number in range(start[0], min(end[0], 4) + 1):
        first = start[1] if number == start[0] else 0
        last = end[1] if number == end[0] else STAGE_BLOCKS[depth][number - 1]
        if first < last:
            stride = {1: 1, 4: last_stride}.get(number, 2)
            x = stage(stage=number, stride=stride, first=first, last=last, name=f"stage{number}")(x)
    return x


class MFGNet(nn.Module):
    """The whole network. The defaults are the paper's setting as we read it: ResNet-50, 256 x 256 pixels.

    Attributes:
        num_identities: classes of the training set.
        depth: ResNet depth: 10, 18, 34, 50 or 101.
        width: channels of the first stage (64 in the published networks).
        stem_stride: 4 (7x7 and max pooling) or 2 (one 3x3, for small images).
        last_stride: stride of stage 4; 1 keeps the map twice as tall for the stripes.
        ibn: IBN-a: instance normalisation of half the channels in the blocks of stages 1 to 3.
        branch_from: (stage, block) of the first residual block that each branch has a copy of; the blocks before it
            are shared. (3, 1): all but the first block of stage 3, and stage 4; (5, 0): every block is shared.
        granularities: one branch for each: g horizontal stripes, or (rows, columns) of a grid. 1 is the global branch.
        branch_globals: branches with parts also have a vector of their whole map. (1, 2, 3) then makes 3 + 5 = 8.
        attention: where squeeze-and-excitation sits: "none", "branch" (at each branch's end) or "block" (in every
            residual block).
        attention_reduction: its hidden layer is this many times narrower.
        pooling: "average", "max" or "gem".
        head_width: width of each reduced vector; 0 leaves the pooled vectors as wide as the last stage.
        bnneck: batch normalisation between a vector as the metric loss sees it and as it is classified and embedded.
        identity_vectors: which vectors have an identity classifier: "all", "globals" or "parts".
        triplet_vectors: which the metric loss works on: the same, or "none".
        embedding_vectors: which make up the embedding.
        dtype: the type to compute in; parameters, statistics and outputs are float32.
        axis_name: the mapped axis over which batch statistics are averaged; None on a single device.
        rematerialise: compute the inside of residual blocks again for the gradient: less memory, about one more forward
            pass, the same results up to rounding.
    """

    num_identities: int
    depth: int = 50
    width: int = 64
    stem_stride: int = 4
    last_stride: int = 1
    ibn: bool = False
    branch_from: Place = (3, 1)
    granularities: Sequence[Granularity] = (1, 2, 3)
    branch_globals: bool = True
    attention: str = "branch"
    attention_reduction: int = 16
    pooling: str = "max"
    head_width: int = 256
    bnneck: bool = True
    identity_vectors: str = "all"
    triplet_vectors: str = "globals"
    embedding_vectors: str = "all"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    rematerialise: bool = False

    @nn.compact
    def __call__(self, images: Array, train: bool) -> MFGNetOutput:
        """Runs the network.

        Args:
            images: `(B, H, W, 3)` float32, normalised as in `mfg_jax.data.augment.normalise`.
            train: normalise by the batch's statistics and update the running ones.

        Returns:
            Embedding, logits and the vectors of the metric loss.

        Raises:
            ValueError: an attribute has a value outside its list, selects no vector, or the map is too small for the
                parts.
        """
        check_attributes(self)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        features = Trunk(
            depth=self.depth,
            width=self.width,
            stem_stride=self.stem_stride,
            last_stride=self.last_stride,
            end=self.branch_from,
            ibn=self.ibn,
            attention_reduction=self.attention_reduction if self.attention == "block" else None,
            norm=norm,
            dtype=self.dtype,
            rematerialise=self.rematerialise,
            name="trunk",
        )(images)

        embedded: list[Array] = []
        logits: list[Array] = []
        triplet_features: list[Array] = []
        for granularity in self.granularities:
            name = granularity_name(granularity)
            vectors = Branch(
                granularity=granularity,
                with_global=self.branch_globals,
                depth=self.depth,
                width=self.width,
                start=self.branch_from,
                last_stride=self.last_stride,
                pooling=self.pooling,
                attention=self.attention,
                attention_reduction=self.attention_reduction,
                ibn=self.ibn,
                norm=norm,
                dtype=self.dtype,
                rematerialise=self.rematerialise,
                name=f"branch{name}",
            )(features)
            for part, vector in vectors.items():
                reduced, normalised, scores = Head(
                    width=self.head_width,
                    num_identities=self.num_identities if _chosen(self.identity_vectors, part) else None,
                    bnneck=self.bnneck,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"head{name}_{part}",
                )(vector)
                if scores is not None:
                    logits.append(scores)
                if _chosen(self.triplet_vectors, part):
                    triplet_features.append(reduced)
                if _chosen(self.embedding_vectors, part):
                    embedded.append(normalised)

        embedding = jnp.concatenate(embedded, axis=-1)
        norms = jnp.sqrt(jnp.maximum(jnp.sum(embedding**2, axis=-1, keepdims=True), 1e-12))
        none = jnp.zeros((0, images.shape[0], 1), jnp.float32)
        return MFGNetOutput(
            embedding=embedding / norms,
            logits=jnp.stack(logits),
            triplet_features=jnp.stack(triplet_features) if triplet_features else none,
        )


def check_attributes(model: MFGNet) -> None:
    """Checks what the types of the attributes cannot.

    Raises:
        ValueError: that begins with the attribute's name.
    """
    if model.depth not in STAGE_BLOCKS:
        raise ValueError(f"depth is {model.depth!r}; it is one of {', '.join(map(str, STAGE_BLOCKS))}.")
    if model.attention not in ATTENTION_PLACES:
        raise ValueError(f"attention is {model.attention!r}; it is one of {', '.join(ATTENTION_PLACES)}.")
    stage, block = model.branch_from
    if (
        not (2 <= stage <= 4 and 0 <= block <= STAGE_BLOCKS[model.depth][stage - 1])
        and (stage, block) != _END
    ):
        raise ValueError(
            f"branch_from is {model.branch_from}; it is (stage, block) with a stage from 2 to 4 and a block from 0 "
            f"to the number of the stage's blocks (ResNet-{model.depth}: {STAGE_BLOCKS[model.depth]}), or (5, 0)."
        )
    parts = [grid(granularity) != (1, 1) for granularity in model.granularities]
    present = {
        "all": True,
        "none": True,
        "globals": model.branch_globals or not all(parts),
        "parts": any(parts),
    }
    for field in ("identity_vectors", "triplet_vectors", "embedding_vectors"):
        choice = getattr(model, field)
        allowed = (*VECTOR_CHOICES, "none") if field == "triplet_vectors" else VECTOR_CHOICES
        if choice not in allowed:
            raise ValueError(f"{field} is {choice!r}; it is one of {', '.join(allowed)}.")
        if not present[choice]:
            raise ValueError(
                f"{field} is {choice!r}, but granularities {tuple(model.granularities)} with branch_globals="
                f"{model.branch_globals} make no such vector."
            )


def _chosen(choice: str, part: str) -> bool:
    """Whether a vector, "global" or "part3", belongs to a choice of `VECTOR_CHOICES` or "none"."""
    return choice == "all" or choice == ("globals" if part == "global" else "parts")
