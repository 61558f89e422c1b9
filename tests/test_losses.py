"""The losses against plain NumPy written from their definitions, and their gradients where they degenerate."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs import default
from mfg_jax import losses, parallel, train_step


def _distances(features: np.ndarray, anchor: int) -> np.ndarray:
    return np.sqrt(((features - features[anchor]) ** 2).sum(1))


def _similarities(features: np.ndarray, anchor: int) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1)
    products = lengths * lengths[anchor]
    return np.divide(features @ features[anchor], products, out=np.zeros(len(features)), where=products > 0)


# Each of one anchor: from its distances or similarities to all, the same again "as held", and two lists of places.


def _hard(distances, _held, positive, negative, margin: float | None) -> float:
    """Hermans et al., equation 5."""
    gap = max(distances[positive]) - min(distances[negative])
    return np.logaddexp(0, gap) if margin is None else max(0.0, gap + margin)


def _weighted(distances, _held, positive, negative) -> float:
    """Ye et al., section 4."""
    far, near = distances[positive], distances[negative]
    far_weights, near_weights = np.exp(far - max(far)), np.exp(min(near) - near)
    gap = far_weights @ far / far_weights.sum() - near_weights @ near / near_weights.sum()
    return np.logaddexp(0, gap)


def _circle(similarities, held, positive, negative, m: float, gamma: float) -> float:
    """Sun et al., equation 4, pair by pair; the weights are of the similarities as held."""
    exponents = [0.0]
    for p in positive:
        for n in negative:
            a_p, a_n = max(0.0, 1 + m - held[p]), max(0.0, held[n] + m)
            exponents.append(gamma * (a_n * (similarities[n] - m) - a_p * (similarities[p] - (1 - m))))
    return np.logaddexp.reduce(exponents)


# The function, what compares an anchor with all, and the definition for one anchor.
LOSSES: dict[str, tuple[Callable, Callable, Callable]] = {
    "triplet": (
        lambda a, c, pairs: losses.batch_hard_triplet(a, c, pairs, 0.3),
        _distances,
        lambda *of: _hard(*of, margin=0.3),
    ),
    "triplet of a large margin": (
        lambda a, c, pairs: losses.batch_hard_triplet(a, c, pairs, 2.0),
        _distances,
        lambda *of: _hard(*of, margin=2.0),
    ),
    "soft triplet": (
        lambda a, c, pairs: losses.batch_hard_triplet(a, c, pairs, None),
        _distances,
        lambda *of: _hard(*of, margin=None),
    ),
    "weighted triplet": (losses.weighted_triplet, _distances, _weighted),
    "circle": (
        lambda a, c, pairs: losses.circle_loss(a, c, pairs, 0.25, 128.0),
        _similarities,
        lambda *of: _circle(*of, m=0.25, gamma=128.0),
    ),
    "circle of a small scale": (
        lambda a, c, pairs: losses.circle_loss(a, c, pairs, 0.4, 2.0),
        _similarities,
        lambda *of: _circle(*of, m=0.4, gamma=2.0),
    ),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


@functools.partial(jax.jit, static_argnums=0)
def _value(name: str, features, ids) -> jax.Array:
    """Of a whole batch at once."""
    pairs = losses.find_pairs(ids, ids, jnp.arange(len(ids), dtype=jnp.int32))
    return LOSSES[name][0](features, features, pairs)


def _oracle(name: str, features: np.ndarray, ids: np.ndarray, held: np.ndarray | None = None) -> float:
    """Anchor by anchor, in float64; `held` are the features that weights without gradient are of."""
    _, compare, of_one = LOSSES[name]
    features = features.astype(np.float64)
    held = features if held is None else held
    terms = []
    for anchor in range(len(ids)):
        positive = [i for i in range(len(ids)) if ids[i] == ids[anchor] and i != anchor]
        negative = [i for i in range(len(ids)) if ids[i] != ids[anchor]]
        if positive and negative:
            terms.append(of_one(compare(features, anchor), compare(held, anchor), positive, negative))
    return float(np.mean(terms)) if terms else 0.0


@every_loss
@pytest.mark.parametrize("identities", [1, 2, 5, 12])
def test_a_loss_is_its_definition(name, identities):
    rng = np.random.default_rng(identities)
    features = rng.normal(size=(12, 8)).astype(np.float32)
    ids = rng.integers(0, identities, 12)
    np.testing.assert_allclose(_value(name, features, ids), _oracle(name, features, ids), rtol=1e-5)


@every_loss
def test_a_gradient_is_the_slope_of_the_definition(name):
    rng = np.random.default_rng(1)
    features, ids = rng.normal(size=(8, 4)), np.array([0, 0, 0, 1, 1, 2, 2, 3])
    direction = rng.normal(size=features.shape)
    gradient = jax.grad(lambda x: _value(name, x, ids))(jnp.asarray(features, jnp.float32))
    ahead, behind = features + 1e-6 * direction, features - 1e-6 * direction
    slope = (_oracle(name, ahead, ids, features) - _oracle(name, behind, ids, features)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-3)


@every_loss
def test_a_loss_does_not_depend_on_the_order_of_images(name):
    rng = np.random.default_rng(2)
    features, ids = rng.normal(size=(12, 8)).astype(np.float32), rng.integers(0, 5, 12)
    order = rng.permutation(12)
    np.testing.assert_allclose(
        _value(name, features[order], ids[order]), _value(name, features, ids), rtol=1e-6
    )


@every_loss
@pytest.mark.parametrize(
    "ids",
    [
        np.repeat(np.arange(4), 3),
        np.array([0, 1, 2, 3, 4, 4, 4, 4, 5, 5, 5, 6]),  # the first share has no positives
        np.zeros(12, int),
    ],
)
def test_shares_of_a_batch_against_all_average_to_the_whole(name, ids):
    features = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    ids, features = jnp.asarray(ids), jnp.asarray(features)
    parts = []
    for start in (0, 4, 8):
        share = slice(start, start + 4)
        pairs = losses.find_pairs(ids[share], ids, jnp.arange(start, start + 4))
        parts.append(LOSSES[name][0](features[share], features, pairs))
    np.testing.assert_allclose(np.mean(parts), _value(name, features, ids), rtol=1e-6)


@every_loss
@pytest.mark.parametrize(
    ("features", "ids"),
    [
        (np.ones((6, 4), np.float32), np.array([0, 0, 1, 1, 2, 2])),  # all equal: zero distances
        (np.zeros((6, 4), np.float32), np.array([0, 0, 1, 1, 2, 2])),  # and no direction
        (np.arange(24, dtype=np.float32).reshape(6, 4), np.zeros(6, int)),  # no negatives
        (np.arange(24, dtype=np.float32).reshape(6, 4), np.arange(6)),  # no positives
        (np.arange(24, dtype=np.float32).reshape(6, 4), np.array([0, 0, 0, 0, 0, 1])),  # one anchor does not count
        (np.full((6, 4), 1e4, np.float32), np.array([0, 0, 1, 1, 2, 2])),
        (np.diag([1e4, 1e4, 1e4, 1e-7, 1.0, 0.0]).astype(np.float32), np.array([0, 0, 1, 1, 2, 2])),
    ],
)  # fmt: skip
def test_values_are_right_and_gradients_finite_on_degenerate_batches(name, features, ids):
    value, gradient = jax.value_and_grad(lambda x: _value(name, x, ids))(jnp.asarray(features))
    np.testing.assert_allclose(value, _oracle(name, features, ids), rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()
    if len(np.unique(ids)) in (1, len(ids)):
        np.testing.assert_array_equal(gradient, 0.0)


def test_equal_vectors_do_not_pull_at_each_other():
    ids = np.array([0, 0, 1, 1])
    for name in ("triplet", "soft triplet", "weighted triplet"):
        gradient = jax.grad(lambda x, name=name: _value(name, x, ids))(jnp.ones((4, 3)))
        np.testing.assert_array_equal(gradient, 0.0)


def test_near_equal_vectors_far_from_zero_keep_their_distance():
    # By the expansion of the square, the distance of 1e-3 between these would be lost in rounding.
    features = np.array([[300.0, 0], [300.001, 0], [301, 0], [301.5, 0]], np.float32)
    ids = np.array([0, 0, 1, 1])
    for name in ("triplet of a large margin", "weighted triplet"):
        np.testing.assert_allclose(_value(name, features, ids), _oracle(name, features, ids), rtol=1e-5)


def test_circle_loss_is_of_directions_and_its_gradient_is_equation_10():
    rng = np.random.default_rng(3)
    features, ids = rng.normal(size=(6, 4)).astype(np.float32), np.array([0, 0, 1, 1, 2, 2])
    longer = features * rng.uniform(0.1, 10, (6, 1)).astype(np.float32)
    np.testing.assert_allclose(_value("circle", longer, ids), _value("circle", features, ids), rtol=1e-5)

    # One anchor, one positive and negatives in the plane, where the slope along a negative's angle is known.
    m, gamma, angle = 0.25, 8.0, 1.0
    anchor = jnp.array([[1.0, 0.0]])
    pairs = losses.find_pairs(jnp.array([0]), jnp.array([0, 0, 1, 1]), jnp.array([0]))

    @jax.jit
    def loss(angle):
        negative = jnp.stack([jnp.cos(angle), jnp.sin(angle)])[None]
        fixed = jnp.array([[1.0, 0.0], [0.8, 0.6], [-0.6, 0.8]])
        return losses.circle_loss(anchor, jnp.concatenate([fixed[:2], negative, fixed[2:]]), pairs, m, gamma)

    value, slope = jax.value_and_grad(loss)(angle)
    s_n = np.cos(angle)
    others = np.maximum(-0.6 + m, 0) * (-0.6 - m)
    share = np.exp(gamma * (s_n**2 - m**2)) / (np.exp(gamma * (s_n**2 - m**2)) + np.exp(gamma * others))
    by_similarity = (1 - np.exp(-value)) * share * gamma * (s_n + m)
    np.testing.assert_allclose(slope, by_similarity * -np.sin(angle), rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_definition(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 7)).astype(np.float32) * 4
    labels = rng.integers(0, 7, 5)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    targets = np.full((5, 7), smoothing / 7)
    targets[np.arange(5), labels] += 1 - smoothing
    expected = -(targets * np.log(probabilities)).sum(-1).mean()
    actual = losses.smoothed_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_losses_are_float32_whatever_comes_in():
    logits = jnp.zeros((2, 3, 4), jnp.bfloat16)
    assert losses.smoothed_cross_entropy(logits, jnp.zeros(3, jnp.int32), 0.1).dtype == jnp.float32
    features = np.arange(8).reshape(4, 2).astype(jnp.bfloat16)
    for name in LOSSES:
        assert _value(name, features, np.array([0, 0, 1, 1])).dtype == jnp.float32


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "triplet"),
        ({"triplet_soft_margin": True}, "soft triplet"),
        ({"metric_loss": "weighted_triplet"}, "weighted triplet"),
        ({"metric_loss": "circle"}, "circle"),
    ],
)
def test_four_devices_take_the_gradient_of_the_global_batch(changed, name):
    """Against the loss of the whole batch in one piece, by the kernels of a linear network of two vectors."""
    weights = dataclasses.replace(train_step.LossWeights(**default.get_config().loss), **changed)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)

    def of_share(kernels, images, ids):
        def loss(kernels):
            first = jax.lax.axis_index(parallel.AXIS).astype(jnp.int32) * len(ids)
            features = jnp.einsum("bi,vid->vbd", images, kernels)
            return train_step.global_metric_loss(features, ids, first, weights)

        return jax.lax.pmean(jax.value_and_grad(loss)(kernels), parallel.AXIS)

    @jax.jit
    @jax.value_and_grad
    def of_whole(kernels, images, ids):
        features = jnp.einsum("bi,vid->vbd", images, kernels)
        return (_value(name, features[0], ids) + _value(name, features[1], ids)) / 2

    on_four = jax.jit(
        jax.shard_map(
            of_share,
            mesh=parallel.make_mesh(jax.devices()[:4]),
            in_specs=(P(), P(parallel.AXIS), P(parallel.AXIS)),
            out_specs=P(),
            check_vma=False,
        )
    )
    # Most pairs span devices; in the second batch two devices have no anchor that counts.
    for ids in ([0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 4, 4, 5]):
        batch = kernels, images, jnp.array(ids, jnp.int32)
        (value, gradient), (expected, expected_gradient) = on_four(*batch), of_whole(*batch)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.abs(expected_gradient).max() > 0.01
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
