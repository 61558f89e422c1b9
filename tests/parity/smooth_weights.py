"""Weights under which a training step is smooth, so that gradients in float32 can be compared closely.

A gradient jumps where the input of a ReLU, or the lead of a maximum over the next value, is within rounding of zero.
In a large network some always are, and each moves the gradient by its whole share. Here the bias of a channel's batch
normalisation is four standard deviations, of random sign: its ReLU is nearly always open or nearly always closed, and
every layer has both kinds. Through a stage, a channel of the residual stream keeps its sign.

An open channel's mean is large beside its deviation, and a convolution would make more of it, so that batch statistics
lose digits. So a kernel's weights, at each of its places, sum to zero over the input channels that are open.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

# Biases, in units of a normalised channel: before a ReLU, and at the end of a block, where scales are 0.1 to 0.3.
_BEFORE_RELU, _BEFORE_ADDITION = 4.0, 1.0
# Of the channels that a maximum is taken over, in the stem and the heads: fewer maxima, fewer close leads.
_OPEN, _OPEN_BEFORE_MAXIMUM = 1 / 2, 1 / 8


def make_smooth(params: dict[str, Any], rng: np.random.Generator) -> None:
    """Changes the parameters of an `MFGNet` of bottlenecks, NumPy arrays, in place.

    Args:
        params: with scales of 0.5 to 1.5, or 0.1 to 0.3 in the last norm of a block.
        rng: draws the channels' signs.
    """
    stem = params["trunk"]["stem"]["norm"]
    signs = _draw(stem, rng, _OPEN_BEFORE_MAXIMUM)
    _set_bias(stem, signs, _BEFORE_RELU)
    trunk_signs = _smooth_blocks(params["trunk"], signs, rng)
    for name in [name for name in params if name.startswith("branch")]:
        signs = _smooth_blocks(params[name], trunk_signs, rng)
        # Gates that are neither shut nor wide open: what is balanced before them stays nearly so.
        params[name]["attention"]["excite"]["kernel"] *= 0.1
        for head in [head for head in params if head.startswith(name.replace("branch", "head") + "_")]:
            _balance(params[head]["reduce"]["kernel"], signs)


def _smooth_blocks(modules: dict[str, Any], signs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes the residual blocks of a trunk or branch; from and to the signs of the stream's channels."""
    for stage, block in _blocks(modules):
        inside = [_draw(block[norm], rng) for norm in ("norm1", "norm2")]
        _balance(block["conv1"]["matmul"]["kernel"], signs)
        _balance(block["conv2"]["kernel"], inside[0])
        _balance(block["conv3"]["matmul"]["kernel"], inside[1])
        if "shortcut_conv" in block:
            _balance(block["shortcut_conv"]["matmul"]["kernel"], signs)
            signs = _draw(block["shortcut_norm"], rng, _OPEN_BEFORE_MAXIMUM if stage == "stage4" else _OPEN)
            _set_bias(block["shortcut_norm"], signs, _BEFORE_RELU)
        _set_bias(block["norm1"], inside[0], _BEFORE_RELU)
        _set_bias(block["norm2"], inside[1], _BEFORE_RELU)
        _set_bias(block["norm3"], signs, _BEFORE_ADDITION)
    return signs


def _blocks(modules: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for stage in sorted(name for name in modules if name.startswith("stage")):
        for block in sorted(modules[stage]):
            yield stage, modules[stage][block]


def _draw(norm: dict[str, np.ndarray], rng: np.random.Generator, share: float = _OPEN) -> np.ndarray:
    """A sign for each channel, so that a share of them is open."""
    return np.where(rng.permutation(norm["bias"].size) < share * norm["bias"].size, 1.0, -1.0)


def _set_bias(norm: dict[str, np.ndarray], signs: np.ndarray, size: float) -> None:
    norm["bias"][:] = size * signs


def _balance(kernel: np.ndarray, signs: np.ndarray) -> None:
    """Lets a kernel `(..., C, F)` sum to zero over those of its C inputs that are open."""
    is_open = signs > 0
    kernel[..., is_open, :] -= kernel[..., is_open, :].mean(axis=-2, keepdims=True)
