"""Convolutions against XLA's own, in values, gradients and types, and where each way of computing is taken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from mfg_jax.models.convolution import WINOGRAD_CHANNELS as MANY
from mfg_jax.models.convolution import Convolution, convolve


def _xla(x: Array, kernel: Array, stride: int) -> Array:
    edge = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((edge, edge),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("height", "width", "channels", "features", "size", "stride"),
    [
        (2, 2, MANY, MANY, 3, 1),
        (6, 4, MANY, MANY + 3, 3, 1),
        (5, 4, MANY, MANY, 3, 1),
        (6, 4, 5, 7, 3, 1),
        (6, 5, 5, 7, 3, 2),
        (9, 10, 3, 4, 7, 2),
    ],
)
def test_values_and_gradients_are_those_of_the_direct_sum(height, width, channels, features, size, stride):
    x, kernel = _normal(0, 3, height, width, channels), _normal(1, size, size, channels, features)
    dy = _normal(2, 3, -(-height // stride), -(-width // stride), features)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(function):
        y, gradients = jax.vjp(lambda x, kernel: function(x, kernel, stride), x, kernel)
        return y, *gradients(dy)

    for ours, theirs in zip(value_and_gradients(convolve), value_and_gradients(_xla), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * float(jnp.abs(theirs).max()))


def test_only_a_cpu_computes_it_as_matrix_products():
    def gradients(x, kernel):
        return jax.value_and_grad(lambda *both: jnp.sum(convolve(*both) ** 2), argnums=(0, 1))(x, kernel)

    traced = jax.jit(gradients).trace(_normal(0, 1, 4, 4, MANY), _normal(1, 3, 3, MANY, MANY))
    convolutions = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert convolutions == {"cpu": 0, "cuda": 3, "tpu": 3}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_layer_computes_in_its_type_with_a_float32_kernel(dtype):
    x = _normal(0, 2, 4, 4, MANY)
    layer = Convolution(MANY, dtype=jnp.dtype(dtype))
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((3, 3, MANY, MANY), jnp.float32)
    _, gradients = jax.value_and_grad(lambda v: jnp.sum(layer.apply(v, x)).astype(jnp.float32))(variables)
    assert gradients["params"]["kernel"].dtype == jnp.float32
    y, expected = layer.apply(variables, x), _xla(x, kernel, 1)
    assert y.dtype == jnp.dtype(dtype)
    tolerance = {"float32": 2e-6, "bfloat16": 2e-2}[dtype] * float(jnp.abs(expected).max())
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0, atol=tolerance)
