"""Embedding: the same on any number of devices, with a last batch that is not full, and the flip average."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax import embedding, parallel
from mfg_jax.data.augment import normalise
from mfg_jax.models import MFGNet

MODEL = MFGNet(num_identities=3, depth=10, width=8, stem_stride=2, head_width=8, granularities=(2,))


@functools.cache
def _variables() -> dict:
    init = jax.jit(
        MODEL.init, static_argnames="train", compiler_options={"xla_backend_optimization_level": 0}
    )
    return jax.device_get(init(jax.random.key(0), jnp.zeros((1, 24, 24, 3)), train=False))


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)


def _plain(images: np.ndarray) -> np.ndarray:
    apply = jax.jit(lambda x: MODEL.apply(_variables(), normalise(x), train=False).embedding)
    return np.asarray(apply(jnp.asarray(images)))


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_embeddings_are_the_networks_own(devices, flip):
    images = _images()
    mesh = parallel.make_mesh(jax.devices()[:devices])
    forward = embedding.make_forward(MODEL, mesh, flip=flip)
    padded = np.concatenate([images, np.zeros((2, 24, 24, 3), np.uint8)])
    actual = embedding.embed(
        forward, parallel.replicate(_variables(), mesh), [padded[:4], padded[4:]], 6, mesh, "embedding"
    )
    expected = _plain(images)
    if flip:
        expected = expected + _plain(images[:, :, ::-1])
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert actual.shape == (6, 24)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
