"""The gradient of a batch that is processed slice by slice, for batches whose activations do not fit in memory.

The losses compare images of the whole batch with each other, so they are not sums over slices. The gradient is taken in
two passes (Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021): the first
runs all slices forward and keeps only their outputs; the loss of all outputs then gives each output's own gradient,
and the second pass runs each slice again and takes that gradient through it. The result is the gradient of the
batch's loss, mined over the whole batch, for one more forward pass of time and the memory of one slice.

What remains different is batch normalisation: it normalises by the statistics of a slice (over all devices), and the
running statistics move by the mean over the slices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Tree = Any


def gradient_in_slices(
    forward: Callable[[Tree, Array], tuple[Tree, Tree]],
    loss: Callable[[Tree], tuple[Array, Tree]],
    params: Tree,
    images: Array,
    slices: int,
) -> tuple[Tree, tuple[Tree, Tree]]:
    """The gradient of `loss` of all outputs of `forward`, with the activations of one slice at a time in memory.

    Args:
        forward: `(params, images) -> (outputs, batch statistics)` of a slice; the outputs are arrays `(V, b, ...)`.
        loss: `outputs -> (loss, metrics)`, of the outputs of all slices side by side: `(V, slices * b, ...)`.
        params: where to take the gradient.
        images: `(slices * b, ...)`.
        slices: how many.

    Returns:
        As `jax.grad(..., has_aux=True)` gives them: the gradient, and the metrics with the mean of the slices'
        statistics.
    """
    sliced = images.reshape(slices, images.shape[0] // slices, *images.shape[1:])

    def run(_: None, images: Array) -> tuple[None, tuple[Tree, Tree]]:
        return None, forward(params, images)

    _, (outputs, statistics) = jax.lax.scan(run, None, sliced)
    cotangents, metrics = jax.grad(loss, has_aux=True)(jax.tree.map(_join, outputs))

    def take(gradient: Tree, part: tuple[Array, Tree]) -> tuple[Tree, None]:
        images, cotangent = part
        _, pull_back, _ = jax.vjp(lambda params: forward(params, images), params, has_aux=True)
        return jax.tree.map(jnp.add, gradient, pull_back(cotangent)[0]), None

    nothing = jax.tree.map(jnp.zeros_like, params)
    parts = jax.tree.map(lambda x: _cut(x, slices), cotangents)
    gradient, _ = jax.lax.scan(take, nothing, (sliced, parts))
    return gradient, (metrics, jax.tree.map(lambda x: jnp.mean(x, axis=0), statistics))


def _join(x: Array) -> Array:
    """`(slices, V, b, ...)` to `(V, slices * b, ...)`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _cut(x: Array, slices: int) -> Array:
    """`(V, slices * b, ...)` to `(slices, V, b, ...)`."""
    return jnp.moveaxis(x.reshape(x.shape[0], slices, x.shape[1] // slices, *x.shape[2:]), 1, 0)
