"""The losses against plain NumPy written from their definitions, and their gradients where they degenerate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax import losses


def _triplet_oracle(features: np.ndarray, ids: np.ndarray, margin: float | None) -> float:
    """Hermans et al., equation 5, image by image in float64."""
    features = features.astype(np.float64)
    terms = []
    for anchor in range(len(ids)):
        distances = np.sqrt(((features - features[anchor]) ** 2).sum(1))
        positives = [distances[i] for i in range(len(ids)) if ids[i] == ids[anchor] and i != anchor]
        negatives = [distances[i] for i in range(len(ids)) if ids[i] != ids[anchor]]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            terms.append(np.log1p(np.exp(gap)) if margin is None else max(0.0, gap + margin))
    return float(np.mean(terms)) if terms else 0.0


def _triplet(features: np.ndarray, ids: np.ndarray, margin: float | None) -> jax.Array:
    positions = jnp.arange(len(ids), dtype=jnp.int32)
    return losses.batch_hard_triplet(
        jnp.asarray(features), jnp.asarray(ids), jnp.asarray(features), jnp.asarray(ids), positions, margin
    )


@pytest.mark.parametrize("margin", [0.3, 2.0, None])
@pytest.mark.parametrize("identities", [1, 2, 5, 12])
def test_triplet_is_its_definition(identities, margin):
    rng = np.random.default_rng(identities)
    features = rng.normal(size=(12, 8)).astype(np.float32)
    ids = rng.integers(0, identities, 12)
    np.testing.assert_allclose(
        _triplet(features, ids, margin), _triplet_oracle(features, ids, margin), rtol=1e-5
    )


def test_triplet_of_a_share_against_all_averages_to_the_whole():
    rng = np.random.default_rng(0)
    features, ids = rng.normal(size=(12, 8)).astype(np.float32), np.repeat(np.arange(4), 3)
    parts = [
        losses.batch_hard_triplet(
            jnp.asarray(features[start : start + 4]),
            jnp.asarray(ids[start : start + 4]),
            jnp.asarray(features),
            jnp.asarray(ids),
            jnp.arange(start, start + 4),
            0.3,
        )
        for start in (0, 4, 8)
    ]
    np.testing.assert_allclose(np.mean(parts), _triplet(features, ids, 0.3), rtol=1e-6)


@pytest.mark.parametrize(
    ("features", "ids"),
    [
        (np.ones((6, 4), np.float32), np.array([0, 0, 1, 1, 2, 2])),  # all equal: zero distances
        (np.zeros((6, 4), np.float32), np.array([0, 0, 1, 1, 2, 2])),
        (np.arange(24, dtype=np.float32).reshape(6, 4), np.zeros(6, int)),  # no negatives
        (np.arange(24, dtype=np.float32).reshape(6, 4), np.arange(6)),  # no positives
        (np.full((6, 4), 1e4, np.float32), np.array([0, 0, 1, 1, 2, 2])),
    ],
)
@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_gradients_are_finite_on_degenerate_batches(features, ids, margin):
    value, gradient = jax.value_and_grad(lambda x: _triplet(x, ids, margin))(jnp.asarray(features))
    np.testing.assert_allclose(value, _triplet_oracle(features, ids, margin), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_near_equal_vectors_far_from_zero_keep_their_distance():
    # By the expansion of the square, the distance of 1e-3 between these would be lost in rounding.
    features = np.array([[300.0, 0], [300.001, 0], [301, 0], [301.5, 0]], np.float32)
    ids = np.array([0, 0, 1, 1])
    np.testing.assert_allclose(_triplet(features, ids, 5.0), _triplet_oracle(features, ids, 5.0), rtol=1e-5)


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
    features = np.ones((4, 2), jnp.bfloat16)
    assert _triplet(features, np.array([0, 0, 1, 1]), 0.3).dtype == jnp.float32
