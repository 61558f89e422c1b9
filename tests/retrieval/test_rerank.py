"""Re-ranking against a second implementation, written from the paper's equations with sets and dense rows."""

import jax
import numpy as np
import pytest
from retrieval_oracle import squared_distances

from mfg_jax.errors import UserError
from mfg_jax.retrieval import rerank


def rerank_plainly(query, gallery, k1, k2, lambda_value):
    """Zhong et al., CVPR 2017, equations 4 to 12, in float64. Distances are squared and divided by a row's
    largest.
    """
    features = np.concatenate([query, gallery]).astype(np.float64)
    squared = squared_distances(features, features)
    original = squared / squared.max(axis=1, keepdims=True)
    images = len(features)
    ranking = [sorted(range(images), key=lambda j, i=i: (squared[i, j], j)) for i in range(images)]

    def reciprocal(i, k):
        return {j for j in ranking[i][: k + 1] if i in ranking[j][: k + 1]}

    vectors = np.zeros((images, images))
    for i in range(images):
        members = reciprocal(i, k1)
        expanded = set(members)
        for candidate in members:
            around = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(around & members) > 2 / 3 * len(around):
                expanded |= around
        for j in expanded:
            vectors[i, j] = np.exp(-original[i, j])
        vectors[i] /= vectors[i].sum()
    averaged = np.stack([vectors[ranking[i][:k2]].mean(axis=0) for i in range(images)])

    new = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            other = averaged[len(query) + j]
            jaccard = 1 - np.minimum(averaged[i], other).sum() / np.maximum(averaged[i], other).sum()
            new[i, j] = (1 - lambda_value) * jaccard + lambda_value * original[i, len(query) + j]
    return new


def clustered(images, identities, seed, spread=0.5, width=16):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((identities, width))
    features = centres[rng.integers(0, identities, images)] + spread * rng.standard_normal((images, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("queries", "images", "identities", "k1", "k2", "lambda_value"),
    [
        (20, 120, 12, 20, 6, 0.3),
        (7, 90, 30, 8, 3, 0.0),
        (5, 60, 5, 5, 1, 0.7),
        (1, 4, 2, 2, 2, 0.3),
        (10, 70, 20, 15, 16, 0.1),
    ],
)
def test_agrees_with_the_equations(queries, images, identities, k1, k2, lambda_value):
    query, gallery = clustered(queries, identities, 1), clustered(images, identities, 2)
    got = rerank(query, gallery, k1, k2, lambda_value)
    np.testing.assert_allclose(got, rerank_plainly(query, gallery, k1, k2, lambda_value), atol=1e-5)
    assert got.dtype == np.float32


def test_agrees_where_images_are_repeated():
    gallery = clustered(40, 8, 3)
    gallery = np.concatenate([gallery, gallery])
    got = rerank(gallery[:6], gallery, 10, 4, 0.3)
    np.testing.assert_allclose(got, rerank_plainly(gallery[:6], gallery, 10, 4, 0.3), atol=1e-5)


def test_all_images_alike():
    same = np.ones((12, 4), np.float32)
    distances = rerank(same[:3], same[3:], 5, 2)
    assert np.isfinite(distances).all()


def test_only_the_original_distance():
    query, gallery = clustered(10, 6, 4), clustered(80, 6, 5)
    everything = np.concatenate([query, gallery])
    squared = squared_distances(query, gallery)
    farthest = squared_distances(query, everything).max(axis=1, keepdims=True)
    np.testing.assert_allclose(rerank(query, gallery, lambda_value=1.0), squared / farthest, atol=1e-5)


def test_result_does_not_depend_on_the_devices():
    query, gallery = clustered(30, 10, 6), clustered(300, 10, 7)
    np.testing.assert_array_equal(rerank(query, gallery), rerank(query, gallery, devices=jax.devices()[:4]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 15}, "k1 is 15"),
        ({"k1": 0}, "k1 is 0"),
        ({"k1": 3, "k2": 5}, "k2 5"),
        ({"k1": 3, "k2": 2, "lambda_value": 1.5}, "lambda_value is 1.5"),
    ],
)
def test_bad_settings_are_a_clear_error(options, message):
    with pytest.raises(UserError, match=message):
        rerank(clustered(5, 2, 0), clustered(10, 2, 1), **options)
