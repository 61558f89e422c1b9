"""Weights of published residual networks, under their PyTorch names, put into MFG-Net's tree.

Understood are torchvision's and timm's ResNet (18, 34, 50, 101), timm's SE-ResNet (`seresnet50`) and IBN-Net's
ResNet-IBN-a, which fast-reid uses too. The mapping is read off the network's own tree: whatever module a residual block
sits in, block b of stage s is `layer{s}.{b}` of the file, and every branch's copy of a block starts from the one in the
file. Nothing is guessed: each tensor is used, ignored for a stated reason, or left at its initial value because no
published network has it (heads, attention at a branch's end); anything else is an error.

A tensor in half precision, bfloat16 or double is converted to float32 and the report says so. PyTorch's running
variances are the unbiased ones, Flax's the biased; over the millions of values behind a published weight they do not
differ, so they are taken as they are.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfg_jax.errors import UserError
from mfg_jax.models.resnet import BOTTLENECK_DEPTHS, STAGE_BLOCKS

Shape = tuple[int, ...]

# What wrappers of PyTorch put before every name: data-parallel training, torch.compile, re-identification frameworks.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")

_IGNORED = (
    (r"(^|\.)num_batches_tracked$", "PyTorch's count of batches"),
    (r"^(fc|classifier|head|heads)\.", "head of the network it was trained in"),
    (r"^pixel_(mean|std)$", "pixel normalisation of fast-reid"),
)

_BLOCK = re.compile(r"(?:trunk|branch[^/]*)/stage(\d)/block(\d+)/(.+)")
# Our module names under a block, and PyTorch's; those that are not here are the same.
_MODULES = {
    "norm1": "bn1",
    "norm2": "bn2",
    "norm3": "bn3",
    "shortcut_conv": "downsample.0",
    "shortcut_norm": "downsample.1",
    "attention": "se",
    "squeeze": "fc1",
    "excite": "fc2",
    "instance": "IN",
    "batch": "BN",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_OWN = "params/"  # how the names of a file begin that `mfg_jax.weights_file` exported


@dataclasses.dataclass(frozen=True)
class Used:
    """One tensor of the file: its key, shape and type there, and the tensors of the network that it became."""

    key: str
    shape: Shape
    dtype: str
    places: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor of a file and of a network; `str()` of it is a short table.

    Attributes:
        source: the network that the file holds, such as "SE-ResNet-50".
        prefix: what was removed from the names, such as "module."; "" for nothing.
        used: tensors of the file that were taken.
        ignored: `(key, reason)` of those that were not.
        initial: `(name, shape)` of the network's tensors that keep their initial values.
    """

    source: str
    prefix: str
    used: tuple[Used, ...]
    ignored: tuple[tuple[str, str], ...]
    initial: tuple[tuple[str, Shape], ...]

    def __str__(self) -> str:
        """The short table: a line for what was used, ignored and left, with counts of tensors and values."""
        converted = Counter(used.dtype for used in self.used if used.dtype != "float32")
        notes = [f"{count} converted from {dtype}" for dtype, count in sorted(converted.items())]
        copies = sum(len(used.places) for used in self.used)
        if copies > len(self.used):
            notes.append(f"they fill {copies} tensors, as branches have copies")
        reasons = Counter(reason for _, reason in self.ignored)
        # "params/branch2/attention/..." is one of "branch*/attention", "params/head2_part1/..." one of "head*".
        modules = sorted(
            {re.sub(r"^\w+/(branch|head)[^/]*(/attention)?.*", r"\1*\2", name) for name, _ in self.initial}
        )
        rows = [
            ("used", len(self.used), sum(_size(used.shape) for used in self.used), "; ".join(notes)),
            ("ignored", len(self.ignored), None, "; ".join(f"{r} ({n})" for r, n in sorted(reasons.items()))),
            ("not in file", len(self.initial), sum(_size(s) for _, s in self.initial), ", ".join(modules)),
        ]
        removed = f', "{self.prefix}" removed from the names' if self.prefix else ""
        lines = [
            f"Pretrained weights: {self.source}{removed}",
            f"{'':12}{'tensors':>8}{'values':>13}",
        ]
        for name, tensors, values, note in rows:
            lines.append(
                f"{name:12}{tensors:8,}{'' if values is None else f'{values:,}':>13}  {note}".rstrip()
            )
        return "\n".join(lines)

    def listing(self) -> str:
        """The table, and under it a line for every tensor of file and network."""
        lines = [str(self), ""]
        for used in self.used:
            lines.append(f"used     {used.key} {used.shape} {used.dtype} -> {', '.join(used.places)}")
        lines += [f"ignored  {key}: {reason}" for key, reason in self.ignored]
        lines += [f"initial  {name} {shape}" for name, shape in self.initial]
        return "\n".join(lines) + "\n"


def load_pretrained(variables: Any, tensors: Mapping[str, np.ndarray]) -> tuple[Any, Report]:
    """Puts the weights of a published network, or of an exported MFG-Net, into a network's variables.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of an `MFGNet`, freshly made.
        tensors: by name, as the file has them: PyTorch's names and layouts, or the ones of `mfg_jax.weights_file`.

    Returns:
        New variables of the same structure, shapes and types, and the report.

    Raises:
        UserError: a tensor of the network's residual blocks is missing, one of the file has no place, a shape differs,
            or a value is not a finite number. All of them are counted and the first ones named.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    paths = ["/".join(entry.key for entry in path) for path, _ in leaves]
    exported = any(key.startswith(_OWN) for key in tensors)
    prefix = "" if exported else _find_prefix(tensors)
    remaining, ignored = _without_ignored(tensors, prefix)

    expected: dict[str, Shape] = {}
    places: dict[str, list[int]] = {}
    for index, (path, (_, leaf)) in enumerate(zip(paths, leaves, strict=True)):
        if exported:
            key: str | None = path
            # Other training identities have another classifier.
            if (
                path.endswith("/classify/kernel")
                and path in remaining
                and remaining[path].shape != leaf.shape
            ):
                ignored.append((path, "classifier of other identities"))
                del remaining[path]
                key = None
        else:
            key = torch_name(path)
        if key is not None:
            expected[key] = leaf.shape if exported else _torch_shape(leaf.shape)
            places.setdefault(key, []).append(index)
    shapes = {key: tensor.shape for key, tensor in remaining.items()}
    source = "an exported MFG-Net" if exported else describe(shapes)
    if shapes != expected:
        raise UserError(_mismatch(shapes, expected, source, exported))

    values = [leaf for _, leaf in leaves]
    used = []
    for key, tensor in remaining.items():
        converted = _as_float32(key, tensor)
        for index in places[key]:
            value = converted if exported else _to_flax(converted, values[index].ndim)
            # A copy for each: the training step gives every buffer away once.
            values[index] = jnp.array(value)
        used.append(Used(key, tensor.shape, str(tensor.dtype), tuple(paths[index] for index in places[key])))
    filled = {index for indices in places.values() for index in indices}
    initial = [
        (path, leaf.shape)
        for i, (path, (_, leaf)) in enumerate(zip(paths, leaves, strict=True))
        if i not in filled
    ]
    report = Report(source, prefix, tuple(used), tuple(ignored), tuple(initial))
    return jax.tree_util.tree_unflatten(structure, values), report


def torch_name(path: str) -> str | None:
    """The name that published weights have for a tensor of the network; None where they have none.

    Args:
        path: such as "params/branch2/stage4/block0/conv1/matmul/kernel", which is `layer4.0.conv1.weight`.
    """
    _, _, inner = path.partition("/")
    *modules, leaf = inner.split("/")
    if modules[:2] == ["trunk", "stem"]:
        return {"conv": "conv1", "norm": "bn1"}[modules[2]] + "." + _LEAVES[leaf]
    match = _BLOCK.fullmatch(inner)
    if match is None:
        return None
    stage, block, rest = match.groups()
    names = [_MODULES.get(name, name) for name in rest.split("/")[:-1] if name != "matmul"]
    return ".".join([f"layer{stage}", block, *names, _LEAVES[leaf]])


def describe(shapes: Mapping[str, Shape]) -> str:
    """Names the residual network whose tensors have these names and shapes, such as "ResNet-50-IBN-a"."""
    blocks = [0, 0, 0, 0]
    for key in shapes:
        match = re.match(r"layer([1-4])\.(\d+)\.", key)
        if match:
            stage = int(match[1]) - 1
            blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    if not any(blocks):
        return "no residual network that is known here"
    bottleneck = any(key.endswith(".conv3.weight") for key in shapes)
    depths = [
        depth
        for depth, counts in STAGE_BLOCKS.items()
        if counts == tuple(blocks) and (depth in BOTTLENECK_DEPTHS) == bottleneck
    ]
    kind = "bottleneck" if bottleneck else "basic"
    name = f"ResNet-{depths[0]}" if depths else f"a ResNet of {tuple(blocks)} {kind} blocks"
    if any(".se." in key for key in shapes):
        name = f"SE-{name}" if depths else f"{name} with squeeze-and-excitation"
    if any(".bn1.IN." in key for key in shapes):
        name += "-IBN-a"
    stem = shapes.get("conv1.weight")
    if stem is not None and stem != (64, 3, 7, 7):
        name += f" (first convolution {stem})"
    return name


def _find_prefix(tensors: Mapping[str, np.ndarray]) -> str:
    """What stands before `conv1.weight` of the stem, made of known prefixes; "" where there is no such tensor."""
    known = "|".join(re.escape(prefix) for prefix in PREFIXES)
    found = [match[1] for key in tensors if (match := re.fullmatch(rf"((?:{known})*)conv1\.weight", key))]
    return min(found, key=len, default="")


def _without_ignored(
    tensors: Mapping[str, np.ndarray], prefix: str
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """The tensors without the prefix, less those that are not needed, which are returned with the reason."""
    remaining: dict[str, np.ndarray] = {}
    ignored = []
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        if name == key:
            # A framework's own heads lie beside its backbone, under the outer prefixes alone.
            while part := next((part for part in PREFIXES if prefix and name.startswith(part)), ""):
                name = name.removeprefix(part)
        reason = next((reason for pattern, reason in _IGNORED if re.search(pattern, name)), None)
        if reason is not None:
            ignored.append((key, reason))
        elif name in remaining:
            raise UserError(
                f"The weights hold {name} twice, once as {key}: they are of more than one network."
            )
        else:
            remaining[name] = tensor
    return remaining, ignored


def _torch_shape(shape: Shape) -> Shape:
    """The shape that PyTorch's tensor has for a tensor of ours."""
    if len(shape) == 4:  # (height, width, in, out)
        return (shape[3], shape[2], shape[0], shape[1])
    if len(shape) == 2:  # (in, out) of a 1x1 convolution
        return (shape[1], shape[0], 1, 1)
    return shape


def _to_flax(tensor: np.ndarray, ndim: int) -> np.ndarray:
    if ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    if ndim == 2:
        return tensor[:, :, 0, 0].T
    return tensor


def _as_float32(key: str, tensor: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise UserError(
            f"The tensor {key} holds {tensor.dtype}; expected floating-point numbers. Is it quantised?"
        )
    with np.errstate(over="ignore"):  # reported just below
        converted = tensor.astype(np.float32)
    if not np.isfinite(converted).all():
        raise UserError(f"The tensor {key} holds values that are not finite numbers. The file is damaged.")
    return converted


def _mismatch(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], source: str, exported: bool) -> str:
    """The message for a file that does not fit the network."""
    missing = sorted(key for key in expected if key not in shapes)
    extra = sorted(key for key in shapes if key not in expected)
    different = [
        f"{key} is {shapes[key]}, expected {expected[key]}"
        for key in sorted(expected)
        if key in shapes and shapes[key] != expected[key]
    ]
    parts = [
        f"{title} ({len(names)}): {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}."
        for title, names in (
            ("Missing in the file", missing),
            ("Without a place in the network", extra),
            ("Of another shape", different),
        )
        if names
    ]
    wanted = "an MFG-Net of other settings" if exported else describe(expected)
    return " ".join(
        [f"The weights do not fit the network: the file holds {source}, the network takes {wanted}.", *parts]
        + ([] if exported else _advice(shapes, expected))
    )


def _advice(shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """What to do, where the reason is a known one."""
    advice = []
    if any(".se_module." in key or key.startswith("layer0.") for key in shapes):
        return [
            "These are names of the older SE networks (timm's legacy_seresnet50), which stride and pool in other "
            "places; take timm's seresnet50 instead."
        ]
    if any(".se.fc." in key for key in shapes):
        return [
            "Squeeze-and-excitation without biases (se.fc) is not known here; take timm's seresnet50 instead."
        ]
    if describe(shapes) == describe(expected):
        return []

    def has(keys: Sequence[str], text: str) -> bool:
        return any(text in key for key in keys)

    keys, wanted = list(shapes), list(expected)
    if has(keys, ".se.") != has(wanted, ".se."):
        advice.append(f'attention {"=" if has(keys, ".se.") else "other than"} "block"')
    if has(keys, ".bn1.IN.") != has(wanted, ".bn1.IN."):
        advice.append(f"ibn = {has(keys, '.bn1.IN.')}")
    depth, other = (re.search(r"ResNet-(\d+)", describe(names)) for names in (shapes, expected))
    if depth and (other is None or depth[1] != other[1]):
        advice.append(f"depth = {depth[1]}")
    if shapes.get("conv1.weight") == (64, 3, 7, 7) != expected.get("conv1.weight"):
        advice.append("width = 64 and stem_stride = 4")
    return [f"In the model's settings, {', '.join(advice)} would fit this file better."] if advice else []


def _size(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))
