"""Convolutions against NumPy sums, in values, gradients and types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from mfg_jax.models.convolution import Convolution, PointwiseConv


def _normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _direct_sum(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """The convolution as its definition says it, in float64."""
    size = kernel.shape[0]
    edge = size // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    height, width = x.shape[1:3]
    views = {
        (i, j): padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    }
    return sum(view @ kernel[i, j].astype(np.float64) for (i, j), view in views.items())


@pytest.mark.parametrize(
    ("height", "width", "channels", "features", "size", "stride"),
    [
        (6, 4, 64, 67, 3, 1),
        (5, 4, 5, 7, 3, 1),
        (6, 5, 5, 7, 3, 2),
        (9, 10, 3, 4, 7, 2),
    ],
)
def test_values_and_gradients_are_those_of_the_direct_sum(height, width, channels, features, size, stride):
    x, kernel = _normal(0, 3, height, width, channels), _normal(1, size, size, channels, features)
    dy = _normal(2, 3, -(-height // stride), -(-width // stride), features)
    layer = Convolution(features, size, stride)

    @jax.jit
    def value_and_gradients(x, kernel):
        y, gradient = jax.vjp(lambda x, kernel: layer.apply({"params": {"kernel": kernel}}, x), x, kernel)
        return y, *gradient(dy)

    y, dx, dkernel = value_and_gradients(x, kernel)
    expected = _direct_sum(np.asarray(x), np.asarray(kernel), stride)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    # The sum is linear in each of its operands: <dy, f(v)> = <gradient, v> for every v.
    for seed in range(3):
        v, w = np.asarray(_normal(3 + seed, *x.shape)), np.asarray(_normal(9 + seed, *kernel.shape))
        for gradient, moved, direction in (
            (dx, _direct_sum(v, np.asarray(kernel), stride), v),
            (dkernel, _direct_sum(np.asarray(x), w, stride), w),
        ):
            left, right = np.vdot(dy, moved), np.vdot(np.asarray(gradient, np.float64), direction)
            scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
            assert abs(left - right) < 2e-6 * scale


def test_a_pointwise_convolution_is_a_product_over_the_channels():
    x = _normal(0, 2, 5, 4, 6)
    layer = PointwiseConv(3, stride=2)
    variables = layer.init(jax.random.key(1), x)
    kernel = np.asarray(variables["params"]["matmul"]["kernel"])
    np.testing.assert_allclose(
        layer.apply(variables, x), _direct_sum(np.asarray(x), kernel[None, None], 2), rtol=2e-6, atol=2e-6
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_layer_computes_in_its_type_with_a_float32_kernel(dtype):
    x = _normal(0, 2, 4, 4, 64)
    layer = Convolution(64, dtype=jnp.dtype(dtype))
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((3, 3, 64, 64), jnp.float32)
    _, gradients = jax.value_and_grad(lambda v: jnp.sum(layer.apply(v, x)).astype(jnp.float32))(variables)
    assert gradients["params"]["kernel"].dtype == jnp.float32
    y, expected = layer.apply(variables, x), _direct_sum(np.asarray(x), np.asarray(kernel), 1)
    assert y.dtype == jnp.dtype(dtype)
    tolerance = {"float32": 2e-6, "bfloat16": 2e-2}[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=0, atol=tolerance)
