"""Cutting a feature map into parts, and pooling each to one vector.

MFG-Net segments the feature map for its fine-grained features; that the parts are horizontal stripes, as in MGN
(Wang et al., ACM MM 2018), is our reading of it. Vertical stripes and grids are cut the same way.
"""

from typing import TypeAlias

import jax.numpy as jnp
from jax import Array

# A number of horizontal stripes, or (rows, columns) of a grid; (1, 3) are three vertical stripes.
Granularity: TypeAlias = int | tuple[int, int]

POOLINGS = ("average", "max", "gem")


def grid(granularity: Granularity) -> tuple[int, int]:
    """Rows and columns of a granularity."""
    return (granularity, 1) if isinstance(granularity, int) else granularity


def granularity_name(granularity: Granularity) -> str:
    """How modules name it: "3" for three horizontal stripes, "2x2" for a grid."""
    rows, columns = grid(granularity)
    return str(rows) if columns == 1 else f"{rows}x{columns}"


def equal_bounds(length: int, pieces: int, side: str = "rows") -> tuple[tuple[int, int], ...]:
    """Cuts `length` into `pieces` consecutive ranges, as equal as possible, the longer ones first.

    16 rows in three stripes are (0, 6), (6, 11), (11, 16): no row is dropped and none is counted twice.

    Args:
        length: rows or columns of the feature map.
        pieces: how many to make.
        side: what is cut, for the message.

    Returns:
        `(start, stop)` of each piece.

    Raises:
        ValueError: there are fewer rows or columns than pieces.
    """
    if not 1 <= pieces <= length:
        raise ValueError(
            f"A feature map of {length} {side} cannot be cut into {pieces} parts: "
            "use larger images, a smaller stride or fewer parts."
        )
    short, longer = divmod(length, pieces)
    bounds = []
    start = 0
    for piece in range(pieces):
        stop = start + short + (piece < longer)
        bounds.append((start, stop))
        start = stop
    return tuple(bounds)


def cut(x: Array, granularity: Granularity) -> list[Array]:
    """Cuts `(B, H, W, C)` into its parts, row by row from the top left.

    Raises:
        ValueError: the map is smaller than the grid.
    """
    rows, columns = grid(granularity)
    return [
        x[:, top:bottom, left:right]
        for top, bottom in equal_bounds(x.shape[1], rows, "rows")
        for left, right in equal_bounds(x.shape[2], columns, "columns")
    ]


def pool(x: Array, pooling: str) -> Array:
    """Pools `(B, H, W, C)` over space to `(B, C)` float32.

    Args:
        x: a feature map, not negative (it comes out of a ReLU).
        pooling: "average", "max", or "gem": the generalised mean of power 3 (Radenovic et al., TPAMI 2019).

    Raises:
        ValueError: `pooling` is none of these.
    """
    x = x.astype(jnp.float32)
    if pooling == "average":
        return jnp.mean(x, axis=(1, 2))
    if pooling == "max":
        return jnp.max(x, axis=(1, 2))
    if pooling == "gem":
        # Bounded below, so that the cube root has a finite gradient where a channel is silent everywhere.
        return jnp.cbrt(jnp.mean(jnp.maximum(x, 1e-4) ** 3, axis=(1, 2)))
    raise ValueError(f"pooling is 'average', 'max' or 'gem', not {pooling!r}.")


def pool_with_parts(x: Array, granularity: Granularity, pooling: str) -> tuple[Array, list[Array]]:
    """Pools a map and each of its parts.

    The maximum of a map is that of its parts' maxima, so that it takes no pass of its own over the map, nor one for its
    gradient.

    Args:
        x: `(B, H, W, C)`, as in `pool`.
        granularity: of the parts; a granularity of one part has none.
        pooling: as in `pool`.

    Returns:
        The whole map's `(B, C)` float32, and those of its parts in the order of `cut`.

    Raises:
        ValueError: the map is smaller than the grid, or `pooling` is unknown.
    """
    if grid(granularity) == (1, 1):
        return pool(x, pooling), []
    parts = [pool(part, pooling) for part in cut(x, granularity)]
    whole = jnp.max(jnp.stack(parts), axis=0) if pooling == "max" else pool(x, pooling)
    return whole, parts
