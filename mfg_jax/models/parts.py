"""Splitting a feature map into horizontal stripes, and pooling each to one vector.

MFG-Net segments the feature map for its fine-grained features; that the parts are horizontal stripes, as in MGN
(Wang et al., ACM MM 2018), is our reading of it.
"""

import jax.numpy as jnp
from jax import Array

POOLINGS = ("average", "max", "gem")


def stripe_bounds(rows: int, stripes: int) -> tuple[tuple[int, int], ...]:
    """Cuts `rows` into `stripes` consecutive ranges, as equal as possible, the longer ones first.

    16 rows in three stripes are (0, 6), (6, 11), (11, 16): no row is dropped and none is counted twice.

    Args:
        rows: height of the feature map.
        stripes: how many to make.

    Returns:
        `(start, stop)` of each stripe.

    Raises:
        ValueError: there are fewer rows than stripes.
    """
    if not 1 <= stripes <= rows:
        raise ValueError(
            f"A feature map of {rows} rows cannot be cut into {stripes} stripes: "
            "use larger images, a smaller stride or fewer parts."
        )
    short, longer = divmod(rows, stripes)
    bounds = []
    start = 0
    for stripe in range(stripes):
        stop = start + short + (stripe < longer)
        bounds.append((start, stop))
        start = stop
    return tuple(bounds)


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
