"""Query expansion and flip averaging."""

import numpy as np
import pytest

from mfg_jax.errors import UserError
from mfg_jax.retrieval import average_with_flipped, expand_queries


def unit(images, width=8, seed=0):
    features = np.random.default_rng(seed).standard_normal((images, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def test_expansion_is_the_weighted_mean():
    query, gallery = unit(10, seed=1), unit(50, seed=2)
    similarity = query.astype(np.float64) @ gallery.T
    for row, got in enumerate(expand_queries(query, gallery, neighbours=4, alpha=2.0)):
        nearest = np.argsort(-similarity[row])[:4]
        want = query[row] + (np.maximum(similarity[row, nearest], 0) ** 2) @ gallery[nearest]
        np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=1e-6)


def test_expansion_by_nothing_and_by_itself_changes_nothing():
    query = unit(10)
    np.testing.assert_array_equal(expand_queries(query, unit(20, seed=3), neighbours=0), query)
    np.testing.assert_allclose(expand_queries(query, query, neighbours=1), query, atol=1e-6)


def test_flip_averaging():
    straight, flipped = unit(10, seed=1), unit(10, seed=2)
    averaged = average_with_flipped(straight, flipped)
    np.testing.assert_allclose(np.linalg.norm(averaged, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose((averaged * straight).sum(axis=1), (averaged * flipped).sum(axis=1), atol=1e-6)
    np.testing.assert_array_equal(average_with_flipped(straight, -straight), 0)


def test_bad_input_is_a_clear_error():
    with pytest.raises(UserError, match="unit norm"):
        expand_queries(2 * unit(3), unit(5))
    with pytest.raises(UserError, match="unit norm"):
        expand_queries(unit(3), 2 * unit(5))
    with pytest.raises(UserError, match="neither may be negative"):
        expand_queries(unit(3), unit(5), alpha=-1)
    with pytest.raises(UserError, match="equal shapes"):
        average_with_flipped(unit(3), unit(4))
