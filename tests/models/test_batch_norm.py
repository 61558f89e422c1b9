"""Batch normalisation against its definition in float64, against Flax's, and over devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax.models.batch_norm import BatchNorm


def _map(seed: int = 0, shape: tuple[int, ...] = (6, 5, 4, 3)) -> jax.Array:
    """Channels of different means and sizes."""
    sizes, means = np.array([0.1, 1.0, 5.0]), np.array([-0.2, 3.0, 4.0])
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * sizes + means, jnp.float32)


def _variables(seed: int = 5) -> dict:
    draws = np.random.default_rng(seed).uniform(0.5, 1.5, (4, 3)).astype(np.float32)
    scale, bias, mean, var = map(jnp.asarray, draws)
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def _train(layer: nn.Module, x: jax.Array, variables: dict | None = None) -> tuple[jax.Array, dict]:
    y, updated = layer.apply(variables or _variables(), x, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def test_the_batch_is_normalised_and_remembered_as_defined():
    x, variables = _map(), _variables()
    y, remembered = _train(BatchNorm(use_running_average=False), x)
    exact = np.asarray(x, np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    scale, bias = (np.asarray(variables["params"][name], np.float64) for name in ("scale", "bias"))
    np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=0, atol=2e-5)
    before = variables["batch_stats"]
    np.testing.assert_allclose(remembered["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(remembered["var"], 0.9 * before["var"] + 0.1 * var, rtol=1e-5)


def test_running_statistics_normalise_and_stay():
    x, variables = _map(), _variables()
    y, remembered = _train(BatchNorm(use_running_average=True), x)
    host = jax.device_get(variables)
    mean, var = host["batch_stats"]["mean"], host["batch_stats"]["var"]
    expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * host["params"]["scale"] + host["params"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, remembered, variables["batch_stats"]))


@pytest.mark.parametrize("running", [False, True])
def test_gradients_and_names_are_those_of_flax(running):
    x, variables, weights = _map(), _variables(), jax.random.normal(jax.random.key(1), (6, 5, 4, 3))
    flax_layer = nn.BatchNorm(use_running_average=running, momentum=0.9, epsilon=1e-5, dtype=jnp.float32)

    def loss(params, x, layer):
        y, _ = _train(layer, x, variables | {"params": params})
        return jnp.sum(weights * y**2)

    ours, theirs = (
        jax.grad(loss, argnums=(0, 1))(variables["params"], x, layer)
        for layer in (BatchNorm(use_running_average=running), flax_layer)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-5 * float(jnp.abs(other).max()))
    fresh = [
        layer.init(jax.random.key(0), x) for layer in (BatchNorm(use_running_average=running), flax_layer)
    ]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, *fresh))


def test_devices_share_the_batch():
    x = _map()
    alone = _train(BatchNorm(use_running_average=False), x)
    shared = jax.vmap(lambda x: _train(BatchNorm(use_running_average=False, axis_name="d"), x), axis_name="d")
    y, remembered = shared(x.reshape(3, 2, 5, 4, 3))
    np.testing.assert_allclose(y.reshape(x.shape), alone[0], rtol=0, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(remembered[name], np.tile(alone[1][name], (3, 1)), rtol=1e-5)


def test_a_channel_that_never_changes_stays_finite():
    x = jnp.full((4, 3), 1234.5)
    y, gradient = jax.value_and_grad(
        lambda x: jnp.sum(_train(BatchNorm(use_running_average=False), x)[0] ** 2)
    )(x)
    assert jnp.isfinite(y)
    assert jnp.isfinite(gradient).all()


def test_half_precision_comes_out_and_statistics_stay_float32():
    y, remembered = _train(
        BatchNorm(use_running_average=False, dtype=jnp.bfloat16), _map().astype(jnp.bfloat16)
    )
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(remembered)} == {jnp.dtype(jnp.float32)}


def test_without_a_bias_there_is_none():
    variables = BatchNorm(use_running_average=True, use_bias=False).init(jax.random.key(0), _map())
    assert set(variables["params"]) == {"scale"}
