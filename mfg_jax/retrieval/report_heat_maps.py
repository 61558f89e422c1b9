"""Where a network looked: heat maps of each branch's feature map, and of where its pooled vectors come from.

Squeeze-and-excitation weighs channels, not places: it has no map of its own. What can be shown is a branch's map before
and after it. Docs: docs/report.md.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax.numpy as jnp
from jax import Array

from mfg_jax.data.augment import normalise
from mfg_jax.models import MFGNet
from mfg_jax.models.attention import SqueezeExcitation
from mfg_jax.models.parts import Granularity, equal_bounds, granularity_name, grid, pool
from mfg_jax.models.resnet import ResNetStage

Variables = Any
KINDS = ("before", "after", "global", "parts")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What one heat map shows, the same for every image.

    Attributes:
        branch: Name of the branch: "1", "2", "2x2".
        kind: "before" and "after" the gate, or where the "global" vector or the "parts" come from.
        rows: Bounds of the parts (start, stop) in rows of the map; one for the whole map.
        columns: Likewise in columns.
        height: Of the map.
        width: Of the map.
    """

    branch: str
    kind: str
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    height: int
    width: int


def energy(x: Array) -> Array:
    """Length of the vector of channels at each place: `(B, H, W, C)` to `(B, H, W)` float32."""
    return jnp.sqrt(jnp.sum(x.astype(jnp.float32) ** 2, axis=-1))


def pooled_sources(x: Array, pooling: str) -> Array:
    """Which share of the pooled vector's squared length each place gives; the shares of a map sum to 1.

    A channel's pooled value v is shared among places as the pooling made it: for "max" it goes to the place of the
    maximum (equal ones share), for "average" to each in proportion to x, for "gem" to x cubed. Places are then
    weighed by v squared and summed over channels.

    Args:
        x: `(B, H, W, C)`, not negative.
        pooling: "average", "max" or "gem".

    Returns:
        `(B, H, W)` float32; zero where the whole map is.
    """
    x = x.astype(jnp.float32)
    vector = pool(x, pooling)[:, None, None, :]
    weights = {"average": x, "gem": jnp.maximum(x, 1e-4) ** 3, "max": (x == vector).astype(jnp.float32)}[
        pooling
    ]
    weights = weights / jnp.maximum(jnp.sum(weights, axis=(1, 2), keepdims=True), 1e-12)
    shares = jnp.sum(weights * vector**2, axis=-1)
    return shares / jnp.maximum(jnp.sum(shares, axis=(1, 2), keepdims=True), 1e-12)


def heat_maps(model: MFGNet, variables: Variables, images: Array) -> dict[str, dict[str, Array]]:
    """Computes the heat maps of images.

    Args:
        model: The network.
        variables: Its parameters and batch statistics.
        images: `(B, H, W, 3)` uint8.

    Returns:
        `(B, h, w)` float32 maps, by branch and kind (`Layout`).
    """
    _, state = model.apply(
        variables,
        normalise(images),
        train=False,
        capture_intermediates=lambda module, _: isinstance(module, SqueezeExcitation | ResNetStage),
        mutable=["intermediates"],
    )
    captured = cast(dict[str, Any], state)["intermediates"]
    return {
        granularity_name(granularity): _maps_of_branch(model, captured, granularity)
        for granularity in model.granularities
    }


def layouts(model: MFGNet, maps: Mapping[str, Mapping[str, Any]]) -> list[Layout]:
    """Describes the maps that `heat_maps` returned, branch by branch in the network's order."""
    described = []
    for granularity in model.granularities:
        branch = granularity_name(granularity)
        for kind in KINDS:
            if kind in maps[branch]:
                _, height, width = maps[branch][kind].shape
                rows, columns = grid(granularity) if kind == "parts" else (1, 1)
                bounds = equal_bounds(height, rows), equal_bounds(width, columns, "columns")
                described.append(Layout(branch, kind, *bounds, height, width))
    return described


def _maps_of_branch(model: MFGNet, captured: Any, granularity: Granularity) -> dict[str, Array]:
    """The maps of one branch by kind; without attention at its end there is no "before"."""
    branch = captured.get(f"branch{granularity_name(granularity)}", {})
    # A branch without residual blocks of its own works on the trunk's map.
    last = branch.get("stage4") or branch.get("stage3") or captured["trunk"].get("stage4")
    before = after = last["__call__"][0]
    maps = {}
    if model.attention == "branch":
        after = branch["attention"]["__call__"][0]
        maps["before"] = energy(before)
    maps["after"] = energy(after)
    rows, columns = grid(granularity)
    if model.branch_globals or rows * columns == 1:
        maps["global"] = pooled_sources(after, model.pooling)
    if rows * columns > 1:
        # Part by part, put back in place.
        maps["parts"] = jnp.concatenate(
            [
                jnp.concatenate(
                    [
                        pooled_sources(after[:, top:bottom, left:right], model.pooling)
                        for left, right in equal_bounds(after.shape[2], columns, "columns")
                    ],
                    axis=2,
                )
                for top, bottom in equal_bounds(after.shape[1], rows)
            ],
            axis=1,
        )
    return maps
