"""Verification against sorting all distances."""

import jax
import numpy as np
import pytest
from retrieval_oracle import squared_distances

from mfg_jax.errors import UserError
from mfg_jax.retrieval import RetrievalSet, distance, verify


def some_sets(seed, queries=90, images=800, identities=20):
    rng = np.random.default_rng(seed)

    def some(size):
        ids = rng.integers(0, identities, size)
        # Small integers, so that float32 distances are exact and ties at the threshold common.
        features = 3 * np.eye(identities)[ids] + rng.integers(-1, 2, (size, identities))
        return RetrievalSet(features, ids, rng.integers(0, 3, size))

    return some(queries), some(images)


def split_pairs(query, gallery, exclude):
    distances = np.sqrt(squared_distances(query.features, gallery.features))
    same = query.ids[:, None] == gallery.ids
    junk = same & (query.cameras[:, None] == gallery.cameras) if exclude else np.zeros_like(same)
    return np.sort(distances[same & ~junk]), np.sort(distances[~same])


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_are_the_largest_that_keep_the_rate(seed, exclude):
    query, gallery = some_sets(seed)
    rates = (1e-4, 1e-3, 1e-2, 0.3)
    result = verify(query, gallery, exclude, rates)
    same, other = split_pairs(query, gallery, exclude)
    assert (result.same_pairs, result.other_pairs) == (len(same), len(other))
    for rate, share, threshold in zip(rates, result.true_positive_rate, result.threshold, strict=True):
        assert (other < threshold).mean() <= rate
        # The next larger threshold would call too many the same.
        assert (other <= threshold + 1e-9).mean() > rate
        assert share == (same < threshold - 1e-9).mean()


def test_roc_points_are_exact():
    query, gallery = some_sets(5)
    result = verify(query, gallery)
    same, other = split_pairs(query, gallery, True)
    assert len(result.roc) > 20
    for false_rate, true_rate, threshold in result.roc:
        assert false_rate == pytest.approx((other < threshold - 1e-9).mean(), abs=1e-12)
        assert true_rate == pytest.approx((same < threshold - 1e-9).mean(), abs=1e-12)
    assert result.roc[0, :2].tolist() == [0, 0]
    assert result.roc[-1, :2].tolist() == [1, 1]


def test_result_does_not_depend_on_tiles_and_devices(monkeypatch):
    query, gallery = some_sets(6)
    want = verify(query, gallery)
    monkeypatch.setattr(distance, "_CPU_BLOCK_VALUES", 2**13)
    for devices in (None, jax.devices()[:3]):
        got = verify(query, gallery, devices=devices)
        for name, value in vars(want).items():
            np.testing.assert_array_equal(getattr(got, name), value, err_msg=name)


def test_bad_input_is_a_clear_error():
    query, gallery = some_sets(7)
    with pytest.raises(UserError, match="between 0 and 1"):
        verify(query, gallery, false_positive_rates=(1.5,))
    alone = RetrievalSet(query.features, query.ids + 1000, query.cameras)
    with pytest.raises(UserError, match="no pair of one vehicle"):
        verify(alone, gallery)
    one = RetrievalSet(query.features, 0 * query.ids, query.cameras)
    with pytest.raises(UserError, match="no pair of two vehicles"):
        verify(one, one, exclude_same_camera=False)
