"""MFG-Net in PyTorch, written apart from `mfg_jax.models`: the peer of the parity tests and of the benchmarks.

It is idiomatic PyTorch: `nn.Conv2d` for every convolution, `(B, C, H, W)` images, torchvision's names for the residual
network (`conv1`, `bn1`, `layer3.0.downsample.0`), timm's for squeeze-and-excitation (`se.fc1`) and IBN-Net's for IBN-a
(`bn1.IN`, `bn1.BN`). Parts are cut by `torch.tensor_split`: as equal as possible, the longer ones first.

`Settings` has the fields of `config.model`. `resnet` is the classification network that published weights belong to.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_END = (5, 0)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The attributes of `mfg_jax.models.MFGNet`, of the same meaning."""

    num_identities: int
    depth: int = 50
    width: int = 64
    stem_stride: int = 4
    last_stride: int = 1
    ibn: bool = False
    branch_from: tuple[int, int] = (3, 1)
    granularities: Sequence[int | tuple[int, int]] = (1, 2, 3)
    branch_globals: bool = True
    attention: str = "branch"
    attention_reduction: int = 16
    pooling: str = "max"
    head_width: int = 256
    bnneck: bool = True
    identity_vectors: str = "all"
    triplet_vectors: str = "globals"
    embedding_vectors: str = "all"

    @property
    def expansion(self) -> int:
        """How many times wider a residual block's output is than its inside."""
        return 4 if self.depth >= 50 else 1


class Output(NamedTuple):
    """Embedding `(B, D)` of unit norm, logits `(I, B, num_identities)`, metric loss vectors `(T, B, W)`."""

    embedding: Tensor
    logits: Tensor
    triplet_features: Tensor


class SqueezeExcitation(nn.Module):
    """Channel attention (Hu et al., CVPR 2018), with timm's names."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = max(4, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, C, H, W)` to the same shape."""
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest (Pan et al., 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, C, H, W)` to the same shape."""
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], 1)


class Block(nn.Module):
    """A residual block, basic or (`expansion` 4) bottleneck, its stride on the 3x3 convolution."""

    def __init__(
        self,
        in_channels: int,
        features: int,
        stride: int,
        *,
        expansion: int,
        ibn: bool,
        reduction: int | None,
    ):
        super().__init__()
        out_channels = features * expansion
        self.bottleneck = expansion > 1
        self.bn1 = IBN(features) if ibn else nn.BatchNorm2d(features)
        self.bn2 = nn.BatchNorm2d(features)
        if self.bottleneck:
            self.conv1 = nn.Conv2d(in_channels, features, 1, bias=False)
            self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(features, out_channels, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out_channels)
        else:
            self.conv1 = nn.Conv2d(in_channels, features, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.se = nn.Identity() if reduction is None else SqueezeExcitation(out_channels, reduction)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, C, H, W)` to `(B, C', H / stride, W / stride)`."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(self.se(y) + self.downsample(x))


class Head(nn.Module):
    """One vector's reduction, BNNeck (Luo et al., CVPRW 2019: without a bias) and classifier."""

    def __init__(self, channels: int, settings: Settings, classified: bool):
        super().__init__()
        width = settings.head_width or channels
        self.reduce = nn.Linear(channels, width, bias=False) if settings.head_width else nn.Identity()
        self.bn: nn.Module = nn.Identity()
        if settings.bnneck:
            self.bn = nn.BatchNorm1d(width)
            self.bn.bias.requires_grad_(False)
        self.classify = nn.Linear(width, settings.num_identities, bias=False) if classified else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Maps `(B, C)` to the reduced vector, the same normalised, and logits."""
        reduced = _at_least_float32(self.reduce(x))
        normalised = self.bn(reduced)
        scores = None if self.classify is None else _at_least_float32(self.classify(normalised))
        return reduced, normalised, scores


class MFGNet(nn.Module):
    """The whole network."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.trunk = nn.Sequential(
            OrderedDict([*_stem(settings), *_stages(settings, (1, 0), settings.branch_from)])
        )
        channels = settings.width * 8 * settings.expansion
        branches: dict[str, nn.Module] = {}
        heads: dict[str, nn.Module] = {}
        for granularity in settings.granularities:
            rows, columns = _grid(granularity)
            name = _name(granularity)
            modules = _stages(settings, settings.branch_from, _END)
            if settings.attention == "branch":
                modules.append(("se", SqueezeExcitation(channels, settings.attention_reduction)))
            branches[name] = nn.Sequential(OrderedDict(modules))
            for part in self._parts(rows * columns):
                classified = _chosen(settings.identity_vectors, part)
                heads[f"{name}_{part}"] = Head(channels, settings, classified)
        self.branches = nn.ModuleDict(branches)
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> Output:
        """Maps `(B, 3, H, W)` float32, normalised, to an `Output`."""
        settings = self.settings
        shared = self.trunk(images)
        embedded, logits, mined = [], [], []
        for granularity in settings.granularities:
            rows, columns = _grid(granularity)
            name = _name(granularity)
            x = _at_least_float32(self.branches[name](shared))
            pieces = [
                piece
                for strip in torch.tensor_split(x, rows, 2)
                for piece in torch.tensor_split(strip, columns, 3)
            ]
            for part in self._parts(rows * columns):
                piece = x if part == "global" else pieces[int(part.removeprefix("part")) - 1]
                reduced, normalised, scores = self.heads[f"{name}_{part}"](_pool(piece, settings.pooling))
                if scores is not None:
                    logits.append(scores)
                if _chosen(settings.triplet_vectors, part):
                    mined.append(reduced)
                if _chosen(settings.embedding_vectors, part):
                    embedded.append(normalised)
        return Output(
            embedding=functional.normalize(torch.cat(embedded, 1), dim=1, eps=1e-6),
            logits=torch.stack(logits),
            triplet_features=torch.stack(mined) if mined else images.new_zeros(0, len(images), 1),
        )

    def _parts(self, count: int) -> list[str]:
        parts = [f"part{index}" for index in range(1, count + 1)] if count > 1 else []
        return ["global", *parts] if self.settings.branch_globals or count == 1 else parts


def resnet(
    depth: int, *, ibn: bool = False, se: bool = False, last_stride: int = 2, num_classes: int = 1000
) -> nn.Sequential:
    """A ResNet, SE-ResNet or ResNet-IBN-a whose state dict has the keys that published weights have."""
    settings = Settings(0, depth=depth, ibn=ibn, attention="block" if se else "none", last_stride=last_stride)
    head: list[tuple[str, nn.Module]] = [
        ("avgpool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(512 * settings.expansion, num_classes)),
    ]
    return nn.Sequential(OrderedDict([*_stem(settings), *_stages(settings, (1, 0), _END), *head]))


def _stem(settings: Settings) -> list[tuple[str, nn.Module]]:
    width = settings.width
    norm = [("bn1", nn.BatchNorm2d(width)), ("relu", nn.ReLU())]
    if settings.stem_stride == 2:
        return [("conv1", nn.Conv2d(3, width, 3, 2, 1, bias=False)), *norm]
    return [
        ("conv1", nn.Conv2d(3, width, 7, 2, 3, bias=False)),
        *norm,
        ("maxpool", nn.MaxPool2d(3, 2, 1)),
    ]


def _stages(settings: Settings, start: tuple[int, int], end: tuple[int, int]) -> list[tuple[str, nn.Module]]:
    """The residual blocks from `start`, a (stage, block), up to and without `end`, as `layer1` to `layer4`."""
    strides = {1: 1, 2: 2, 3: 2, 4: settings.last_stride}
    layers: list[tuple[str, nn.Module]] = []
    in_channels = settings.width
    for stage, count in enumerate(BLOCKS[settings.depth], 1):
        features = settings.width * 2 ** (stage - 1)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for block in range(count):
            if start <= (stage, block) < end:
                blocks[str(block)] = Block(
                    in_channels,
                    features,
                    strides[stage] if block == 0 else 1,
                    expansion=settings.expansion,
                    ibn=settings.ibn and stage < 4,
                    reduction=settings.attention_reduction if settings.attention == "block" else None,
                )
            in_channels = features * settings.expansion
        if blocks:
            layers.append((f"layer{stage}", nn.Sequential(blocks)))
    return layers


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _pool(x: Tensor, pooling: str) -> Tensor:
    if pooling == "average":
        return x.mean((2, 3))
    if pooling == "max":
        return x.amax((2, 3))
    return x.clamp(min=1e-4).pow(3).mean((2, 3)).pow(1 / 3)


def _grid(granularity: Any) -> tuple[int, int]:
    return (granularity, 1) if isinstance(granularity, int) else tuple(granularity)


def _name(granularity: Any) -> str:
    rows, columns = _grid(granularity)
    return str(rows) if columns == 1 else f"{rows}x{columns}"


def _chosen(choice: str, part: str) -> bool:
    return choice == "all" or choice == ("globals" if part == "global" else "parts")
