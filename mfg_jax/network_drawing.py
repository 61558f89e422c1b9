"""A drawing of a network, from the shapes its own code gives.

python -m mfg_jax.network_drawing --config=configs/vric.py --out=network.png
"""

import argparse
import dataclasses
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from mfg_jax.models import MFGNet
from mfg_jax.models.parts import equal_bounds, granularity_name, grid

_BOX_WIDTH = 1.0
_SHARED, _OWN, _ATTENTION, _VECTOR = "#cfd8e3", "#b9d8c2", "#f5d7a1", "#e3c6dd"
_PART_COLOURS = ("#4c78a8", "#f2a33a", "#2f7d4f", "#b5495b", "#7a5aa6", "#808b96")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One box: what it is, and the shape that comes out of it, without the batch."""

    name: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class BranchShapes:
    """One granularity: its layers up to the map that is cut, its vectors, and how wide each is once reduced."""

    name: str
    rows: int
    columns: int
    layers: tuple[Layer, ...]
    vectors: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class NetworkShapes:
    """All that the drawing shows."""

    image: tuple[int, int, int]
    trunk: tuple[Layer, ...]
    branches: tuple[BranchShapes, ...]
    embedding: int


def network_shapes(model: MFGNet, height: int, width: int) -> NetworkShapes:
    """The shapes of a network's feature maps and vectors, without computing any.

    Args:
        model: the network.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    output, state = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True), image
    )
    maps = state["intermediates"]
    branches = []
    for granularity in model.granularities:
        name = granularity_name(granularity)
        rows, columns = grid(granularity)
        heads = {
            key.partition("_")[2]: value for key, value in maps.items() if key.startswith(f"head{name}_")
        }
        branches.append(
            BranchShapes(
                name=name,
                rows=rows,
                columns=columns,
                layers=_layers(maps[f"branch{name}"], state["params"].get(f"branch{name}", {})),
                vectors=tuple((part, head["__call__"][0][0].shape[-1]) for part, head in heads.items()),
            )
        )
    return NetworkShapes(
        image=(height, width, 3),
        trunk=_layers(maps["trunk"], state["params"]["trunk"]),
        branches=tuple(branches),
        embedding=output.embedding.shape[-1],
    )


def _layers(maps: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Stem, stages and attention of one module, in the order they run."""
    layers = []
    for name in ("stem", "stage1", "stage2", "stage3", "stage4", "attention"):
        if name in maps:
            blocks = [int(block.removeprefix("block")) for block in params[name] if block.startswith("block")]
            title = {"stem": "stem", "attention": "channel\nattention"}.get(name, f"stage {name[-1]}")
            if blocks:
                ends = f"{blocks[0] + 1}" if len(blocks) == 1 else f"{blocks[0] + 1}–{blocks[-1] + 1}"
                title += f"\nblock {ends}" if len(blocks) == 1 else f"\nblocks {ends}"
            layers.append(Layer(title, maps[name]["__call__"][0].shape[1:]))
    return tuple(layers)


def draw(shapes: NetworkShapes, path: pathlib.Path) -> None:
    """Draws the network from left to right: trunk, branches, vectors, embedding."""
    tallest = max(len(branch.vectors) for branch in shapes.branches)
    spacing = max(2.6, 0.42 * tallest + 0.9)
    count = len(shapes.branches)
    columns = 1 + len(shapes.trunk) + max(len(branch.layers) for branch in shapes.branches)
    figure, axes = plt.subplots(figsize=(1.45 * columns + 7.2, spacing * count * 0.95 + 0.8))
    axes.set_axis_off()
    middle = spacing * (count - 1) / 2
    x = _box(axes, 0.0, middle, "image", shapes.image, shapes.image[0], "white")
    for layer in shapes.trunk:
        source = (x, middle)
        x = _box(axes, x + 0.45, middle, layer.name, layer.shape, shapes.image[0], _SHARED)
        _arrow(axes, source, (x - _BOX_WIDTH, middle))
    split = (x, middle)
    embedding_x = 0.0
    ends: list[tuple[float, float]] = []
    for number, branch in enumerate(shapes.branches):
        y = spacing * (count - 1 - number)
        source = split
        x = split[0] + (0.3 if count > 1 else 0.0)  # room for the arrows to part
        for layer in branch.layers:
            colour = _ATTENTION if "attention" in layer.name else _OWN
            x = _box(axes, x + 0.45, y, layer.name, layer.shape, shapes.image[0], colour)
            _arrow(axes, source, (x - _BOX_WIDTH, y))
            source = (x, y)
        shape = (branch.layers or shapes.trunk)[-1].shape
        _arrow(axes, source, (x + 0.45, y))
        x = _parts_map(axes, x + 0.45, y, branch, shape)
        places = [y + 0.42 * ((len(branch.vectors) - 1) / 2 - index) for index in range(len(branch.vectors))]
        for place, (part, width) in zip(places, branch.vectors, strict=True):
            index = 0 if part == "global" else int(part.removeprefix("part"))
            colour = "#555555" if index == 0 else _PART_COLOURS[(index - 1) % len(_PART_COLOURS)]
            axes.plot([x + 0.08, x + 0.55], [y, place], color="#999999", linewidth=0.8)
            axes.add_patch(
                Rectangle((x + 0.55, place - 0.15), 1.75, 0.3, facecolor=_VECTOR, edgecolor=colour)
            )
            label = "whole map" if part == "global" else f"part {index}"
            axes.text(x + 1.425, place, f"{label}: {width}", ha="center", va="center", fontsize=8)
            ends.append((x + 2.3, place))
        embedding_x = max(embedding_x, x + 3.0)
    top, bottom = max(place for _, place in ends), min(place for _, place in ends)
    for end, place in ends:
        axes.plot([end, embedding_x], [place, place], color="#999999", linewidth=0.8)
    axes.add_patch(
        Rectangle((embedding_x, bottom - 0.2), 0.4, top - bottom + 0.4, facecolor="#333333", edgecolor="none")
    )
    axes.text(
        embedding_x + 0.55,
        (top + bottom) / 2,
        f"embedding\n{shapes.embedding} numbers\nof unit norm",
        ha="left",
        va="center",
        fontsize=9,
    )
    axes.set_xlim(-0.3, embedding_x + 2.2)
    axes.set_ylim(min(bottom, -spacing / 2) - 0.2, max(top, spacing * (count - 0.5)) + 0.2)
    axes.set_aspect("equal")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _side(length: int, image: int) -> float:
    """Drawn size of a map's side: the square root, so that small maps stay visible."""
    return max(0.35, 1.7 * (length / image) ** 0.5)


def _box(axes: Axes, x: float, y: float, name: str, shape: tuple[int, ...], image: int, colour: str) -> float:
    """Draws one layer with its left side at `x`; returns where its right side is."""
    height = _side(shape[0], image)
    axes.add_patch(Rectangle((x, y - height / 2), _BOX_WIDTH, height, facecolor=colour, edgecolor="#444444"))
    axes.text(x + _BOX_WIDTH / 2, y, name, ha="center", va="center", fontsize=8)
    size = "×".join(map(str, shape))
    axes.text(x + _BOX_WIDTH / 2, y - height / 2 - 0.08, size, ha="center", va="top", fontsize=7)
    return x + _BOX_WIDTH


def _parts_map(axes: Axes, x: float, y: float, branch: BranchShapes, shape: tuple[int, ...]) -> float:
    """Draws the map that is cut, each part in its colour and with its size; returns where its right side is."""
    side = 1.3
    rows, columns = equal_bounds(shape[0], branch.rows), equal_bounds(shape[1], branch.columns)
    whole = branch.rows * branch.columns == 1
    for index, ((top, bottom), (left, right)) in enumerate([(r, c) for r in rows for c in columns]):
        colour = "#dddddd" if whole else _PART_COLOURS[index % len(_PART_COLOURS)]
        place = (x + side * left / shape[1], y + side / 2 - side * bottom / shape[0])
        size = (side * (right - left) / shape[1], side * (bottom - top) / shape[0])
        axes.add_patch(
            Rectangle(place, *size, facecolor=colour, edgecolor="white", alpha=1 if whole else 0.75)
        )
        text = f"{bottom - top}×{right - left}"
        axes.text(place[0] + size[0] / 2, place[1] + size[1] / 2, text, ha="center", va="center", fontsize=8)
    axes.text(x + side / 2, y - side / 2 - 0.08, "pooled", ha="center", va="top", fontsize=7)
    return x + side


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color="#444444", shrinkA=0, shrinkB=0)
    )


def main() -> None:
    """Draws the network of a configuration."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/vric.py", help="a file, with :NAME for another network")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="PNG, PDF or SVG")
    arguments = parser.parse_args()
    file, _, network = arguments.config.partition(":")
    get_config = runpy.run_path(file)["get_config"]
    config = get_config(network) if network else get_config()
    model = MFGNet(num_identities=1, **config.model)
    draw(network_shapes(model, config.data.height, config.data.width), arguments.out)


if __name__ == "__main__":
    main()
