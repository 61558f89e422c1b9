"""Losses and their gradients against PyTorch's autograd of independent ones, on random and degenerate batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax import losses

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
pytestmark = pytest.mark.torch

import torch_losses  # noqa: E402  it imports PyTorch

LOSSES = {
    "triplet": (
        functools.partial(losses.batch_hard_triplet, margin=0.3),
        functools.partial(torch_losses.batch_hard_triplet, margin=0.3),
    ),
    "soft triplet": (
        functools.partial(losses.batch_hard_triplet, margin=None),
        functools.partial(torch_losses.batch_hard_triplet, margin=None),
    ),
    "weighted triplet": (losses.weighted_triplet, torch_losses.weighted_triplet),
    "circle": (
        functools.partial(losses.circle_loss, margin=0.25, scale=128.0),
        functools.partial(torch_losses.circle_loss, margin=0.25, scale=128.0),
    ),
    "circle of a small scale": (
        functools.partial(losses.circle_loss, margin=0.4, scale=4.0),
        functools.partial(torch_losses.circle_loss, margin=0.4, scale=4.0),
    ),
}

RANDOM = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
BATCHES = {
    "random": (RANDOM, np.repeat(np.arange(4), 3)),
    "uneven": (RANDOM, np.array([0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 4, 5])),
    "large": (RANDOM * 100, np.repeat(np.arange(3), 4)),
    "one identity": (RANDOM, np.zeros(12, int)),
    "no positives": (RANDOM, np.arange(12)),
    "all equal": (np.ones((12, 6), np.float32), np.repeat(np.arange(4), 3)),
    "equal within an identity": (np.repeat(RANDOM[:4], 3, axis=0), np.repeat(np.arange(4), 3)),
    "equal across identities": (np.tile(RANDOM[:4], (3, 1)), np.repeat(np.arange(3), 4)),
}


@functools.partial(jax.jit, static_argnums=0)
def _ours(name, vectors, ids):
    pairs = losses.find_pairs(ids, ids, jnp.arange(len(ids), dtype=jnp.int32))
    return jax.value_and_grad(lambda x: LOSSES[name][0](x, x, pairs))(vectors)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_metric_loss_and_its_gradient(name, batch):
    vectors, ids = BATCHES[batch]
    value, gradient = _ours(name, vectors, ids)
    theirs_in = torch.tensor(vectors, dtype=torch.float64, requires_grad=True)
    theirs = LOSSES[name][1](theirs_in, torch.tensor(ids))
    theirs.backward()
    # Which of several equal vectors is an anchor's nearest is left open: their gradients are compared summed.
    _, place = np.unique(vectors, axis=0, return_inverse=True)
    equal = (place[:, None] == place[None, :]).astype(np.float64)
    gradient, expected = equal @ gradient, equal @ theirs_in.grad.numpy()
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_its_gradient(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 5, 7)).astype(np.float32) * 10, rng.integers(0, 7, 5)
    value, gradient = jax.value_and_grad(losses.smoothed_cross_entropy)(
        jnp.asarray(logits), jnp.asarray(labels), smoothing
    )
    theirs_in = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        theirs_in.flatten(0, 1), torch.tensor(labels).repeat(3), label_smoothing=smoothing
    )
    theirs.backward()
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs_in.grad.numpy(), rtol=1e-4, atol=1e-7)
