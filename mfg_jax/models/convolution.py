"""Convolutions: XLA's own, and for training on a CPU faster ways (docs/performance.md, "Training step").

On a CPU, 3x3 convolutions of many channels are computed by Winograd's minimal filtering, F(2x2, 3x3) (Lavin and Gray,
CVPR 2016, section 4.1): a 2x2 tile of the output takes 16 products of a transformed 4x4 tile of the input where the
direct sum takes 36. Over a batch these are 16 matrix products, one for each place in the tile, each over all tiles. The
gradients are of the same form. They are written out, because the ones that JAX derives would add up 16 padded arrays
of the input's size.

The kernel's gradient is a matrix product there in any case: XLA's own is a convolution with transposed maps, and
transposing takes longer than the products do.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

# From this many channels on, in and out, Winograd's way is the faster one on a CPU.
WINOGRAD_CHANNELS = 64

kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class Convolution(nn.Module):
    """A square convolution without bias, padded so that a stride of 1 keeps the size.

    Attributes:
        features: output channels.
        size: of the kernel, odd.
        stride: along both axes.
        dtype: the type to compute in; the kernel is float32.
    """

    features: int
    size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, C)` to `(B, ceil(H / stride), ceil(W / stride), features)`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    """A convolution with `K // 2` pixels of padding.

    XLA's own, but for the gradients on a CPU and the value that is computed along with them. Where there is no gradient
    it is always XLA's, which every exporter of networks knows.

    Args:
        x: `(B, H, W, C)` float.
        kernel: `(K, K, C, F)` of the same type; K is odd.
        stride: along both axes.

    Returns:
        `(B, ceil(H / stride), ceil(W / stride), F)` of that type. By Winograd's way it differs from the direct sum by
        a few units in the last place of the map's largest value.
    """
    return _direct(x, kernel, stride)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    direct = partial(_direct, stride=stride)
    y = lax.platform_dependent(
        x, kernel, cpu=_winograd if _suits(x, kernel, stride) else direct, default=direct
    )
    return y, (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    winograd = _suits(*saved, stride)
    return lax.platform_dependent(
        *saved,
        dy,
        cpu=_winograd_gradients if winograd else partial(_product_gradients, stride=stride),
        default=partial(_direct_gradients, stride=stride),
    )


convolve.defvjp(_forward, _backward)


def _suits(x: Array, kernel: Array, stride: int) -> bool:
    """Whether Winograd's way is to be taken on a CPU.

    The type has to be float32 (sums of bfloat16 values lose too much), the map of even size (it is cut into 2x2 tiles)
    and the channels many (the transforms cost in proportion to the channels, the products to their square).
    """
    _, height, width, channels = x.shape
    return (
        (kernel.shape[0], stride) == (3, 1)
        and x.dtype == jnp.float32
        and height % 2 == width % 2 == 0
        and min(channels, kernel.shape[3]) >= WINOGRAD_CHANNELS
    )


def _direct(x: Array, kernel: Array, stride: int) -> Array:
    padding = (kernel.shape[0] // 2,) * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _direct_gradients(x: Array, kernel: Array, dy: Array, stride: int) -> tuple[Array, Array]:
    return jax.vjp(partial(_direct, stride=stride), x, kernel)[1](dy)


def _product_gradients(x: Array, kernel: Array, dy: Array, stride: int) -> tuple[Array, Array]:
    dx = jax.vjp(lambda x: _direct(x, kernel, stride), x)[1](dy)[0]
    return dx, _kernel_gradient(x, dy, kernel.shape[0], stride)


def _kernel_gradient(x: Array, dy: Array, size: int, stride: int) -> Array:
    """The gradient `(K, K, C, F)` as one product over all pixels."""
    _, height, width, channels = x.shape
    features = dy.shape[3]
    edge = size // 2
    if stride == 1:
        # Columns are shifted on the one side of the product and rows on the other: each map is copied K times, not one
        # of them K^2 times.
        wide = jnp.pad(x, ((0, 0), (0, 0), (edge, edge), (0, 0)))
        tall = jnp.pad(dy, ((0, 0), (edge, edge), (0, 0), (0, 0)))
        left = jnp.concatenate([wide[:, :, j : j + width] for j in range(size)], axis=3)
        right = jnp.concatenate([tall[:, i : i + height] for i in reversed(range(size))], axis=3)
        product = _over_pixels(left, right).reshape(size, channels, size, features)
        return product.transpose(2, 0, 1, 3)
    padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    views = [
        padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)
    ]
    return _over_pixels(jnp.concatenate(views, axis=3), dy).reshape(size, size, channels, features)


def _over_pixels(left: Array, right: Array) -> Array:
    """The product `(C, F)` of `(B, H, W, C)` and `(B, H, W, F)`, summed over the rest."""
    return lax.dot_general(
        left.reshape(-1, left.shape[3]), right.reshape(-1, right.shape[3]), (((0,), (0,)), ((), ()))
    )


def _winograd(x: Array, kernel: Array) -> Array:
    batch, height, width, _ = x.shape
    features = kernel.shape[3]
    products = [
        jnp.matmul(tile, weight).reshape(batch, height // 2, width // 2, features)
        for tile, weight in zip(_input_tiles(x), _kernel_tiles(kernel), strict=True)
    ]
    rows = [_output_transform(*products[i : i + 4]) for i in range(0, 16, 4)]
    (top_left, bottom_left), (top_right, bottom_right) = (
        _output_transform(*column) for column in zip(*rows, strict=True)
    )
    top = jnp.stack([top_left, top_right], axis=3)
    bottom = jnp.stack([bottom_left, bottom_right], axis=3)
    return jnp.stack([top, bottom], axis=2).reshape(batch, height, width, features)


def _winograd_gradients(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    dx = _winograd(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    products = [
        lax.dot_general(tile, gradient, (((0,), (0,)), ((), ())))
        for tile, gradient in zip(_input_tiles(x), _gradient_tiles(dy), strict=True)
    ]
    rows = [_kernel_transposed(*products[i : i + 4]) for i in range(0, 16, 4)]
    columns = [jnp.stack(_kernel_transposed(*column)) for column in zip(*rows, strict=True)]
    return dx, jnp.stack(columns, axis=1)


def _input_tiles(x: Array) -> list[Array]:
    """The transformed 4x4 tiles of `(B, H, W, C)`, for each of the 16 places `(B * H/2 * W/2, C)`."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    tiles = []
    for row in _input_transform(*(padded[:, i : i + height : 2] for i in range(4))):
        columns = (row[:, :, j : j + width : 2] for j in range(4))
        tiles += [place.reshape(-1, channels) for place in _input_transform(*columns)]
    return tiles


def _kernel_tiles(kernel: Array) -> list[Array]:
    """The transformed kernel `(3, 3, C, F)`, for each of the 16 places `(C, F)`."""
    return [place for row in _kernel_transform(*kernel) for place in _kernel_transform(*row)]


def _gradient_tiles(dy: Array) -> list[Array]:
    """The transformed 2x2 tiles of the output's gradient `(B, H, W, F)`, 16 times `(B * H/2 * W/2, F)`."""
    tiles = []
    for row in _output_transposed(dy[:, 0::2], dy[:, 1::2]):
        places = _output_transposed(row[:, :, 0::2], row[:, :, 1::2])
        tiles += [place.reshape(-1, dy.shape[3]) for place in places]
    return tiles


# The transforms along one axis (equation 7 there): of the input, the kernel and the output; and the transposes of the
# last two, for the kernel's gradient.


def _input_transform(d0: Array, d1: Array, d2: Array, d3: Array) -> tuple[Array, Array, Array, Array]:
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _kernel_transform(g0: Array, g1: Array, g2: Array) -> tuple[Array, Array, Array, Array]:
    return g0, 0.5 * (g0 + g1 + g2), 0.5 * (g0 - g1 + g2), g2


def _output_transform(m0: Array, m1: Array, m2: Array, m3: Array) -> tuple[Array, Array]:
    return m0 + m1 + m2, m1 - m2 - m3


def _kernel_transposed(u0: Array, u1: Array, u2: Array, u3: Array) -> tuple[Array, Array, Array]:
    return u0 + 0.5 * (u1 + u2), 0.5 * (u1 - u2), 0.5 * (u1 + u2) + u3


def _output_transposed(y0: Array, y1: Array) -> tuple[Array, Array, Array, Array]:
    return y0, y0 + y1, y0 - y1, -y1
