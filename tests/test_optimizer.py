"""The schedule at its corners, and that weight decay leaves norms and biases alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mfg_jax import optimizer


def test_vric_schedule_decays_after_epochs_15_and_30():
    schedule = optimizer.step_decay_schedule(
        0.01, steps_per_epoch=100, decay_epochs=(15, 30), decay_factor=0.1
    )
    rates = {step: float(schedule(step)) for step in (0, 1499, 1500, 2999, 3000, 3999)}
    np.testing.assert_allclose(list(rates.values()), [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001], rtol=1e-6)


def test_warm_up_rises_linearly_to_the_base_rate():
    schedule = optimizer.step_decay_schedule(
        1.0, steps_per_epoch=10, decay_epochs=(4,), decay_factor=0.5, warmup_epochs=2.0
    )
    rates = np.array([float(schedule(step)) for step in range(50)])
    np.testing.assert_allclose(rates[:21], np.linspace(0.01, 1.0, 21), rtol=1e-5)
    np.testing.assert_allclose(rates[20:40], 1.0)
    np.testing.assert_allclose(rates[40:], 0.5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_shrinks_kernels_alone(name):
    params = {
        "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
    }
    chain = optimizer.make_optimizer(
        name, optax.constant_schedule(0.1), momentum=0.9, weight_decay=0.5, clip_norm=None
    )
    zero = {
        group: {leaf: jnp.zeros_like(x) for leaf, x in leaves.items()} for group, leaves in params.items()
    }
    # Optax's Adam itself multiplies a float by an integer step.
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = chain.update(zero, chain.init(params), params)
    changed = optax.apply_updates(params, updates)
    assert (changed["dense"]["kernel"] < 1).all()
    for unchanged in (changed["dense"]["bias"], changed["norm"]["scale"], changed["norm"]["bias"]):
        np.testing.assert_array_equal(unchanged, 1.0)


def test_sgd_is_pytorchs_nesterov_with_coupled_decay():
    rate, momentum, decay = 0.1, 0.9, 0.01
    chain = optimizer.make_optimizer(
        "sgd", optax.constant_schedule(rate), momentum=momentum, weight_decay=decay, clip_norm=None
    )
    weights, buffer = np.array([[1.0, -2.0]]), np.zeros((1, 2))
    params = {"kernel": jnp.asarray(weights, jnp.float32)}
    state = chain.init(params)
    for gradient in np.random.default_rng(0).normal(size=(5, 1, 2)):
        updates, state = chain.update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        # As torch.optim.SGD documents it.
        decayed = gradient + decay * weights
        buffer = momentum * buffer + decayed
        weights = weights - rate * (decayed + momentum * buffer)
    np.testing.assert_allclose(params["kernel"], weights, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_adds_the_decay_to_the_gradient_and_adamw_takes_it_off_the_weights(name):
    rate, decay = 0.1, 0.5
    chain = optimizer.make_optimizer(
        name, optax.constant_schedule(rate), momentum=0.9, weight_decay=decay, clip_norm=None
    )
    weights, first, second = np.array([[1.0, -2.0]]), np.zeros((1, 2)), np.zeros((1, 2))
    params = {"kernel": jnp.asarray(weights, jnp.float32)}
    state = chain.init(params)
    for step, gradient in enumerate(np.random.default_rng(0).normal(size=(5, 1, 2)), start=1):
        # Optax's Adam itself multiplies a float by an integer step.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = chain.update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        # As torch.optim.Adam and torch.optim.AdamW document it.
        if name == "adam":
            gradient = gradient + decay * weights
        else:
            weights = weights - rate * decay * weights
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        step_size = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        weights = weights - rate * step_size
    np.testing.assert_allclose(params["kernel"], weights, rtol=1e-4)


def test_clipping_bounds_the_global_norm():
    chain = optimizer.make_optimizer(
        "sgd", optax.constant_schedule(1.0), momentum=0.0, weight_decay=0.0, clip_norm=1.0
    )
    params = {"kernel": jnp.zeros((3, 4))}
    updates, _ = chain.update({"kernel": jnp.full((3, 4), 100.0)}, chain.init(params), params)
    np.testing.assert_allclose(optax.tree.norm(updates), 1.0, rtol=1e-5)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="one of sgd, adam, adamw, not 'lion'"):
        optimizer.make_optimizer(
            "lion", optax.constant_schedule(1.0), momentum=0, weight_decay=0, clip_norm=None
        )
