"""Calibration against counting all pairs."""

import itertools

import numpy as np
import pytest

from mfg_jax.errors import UserError
from mfg_jax.retrieval import RetrievalSet
from mfg_jax.retrieval.calibration import NO_CAMERA, Calibration, calibrate


def some_set(with_cameras, images=60, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 6, images)
    features = np.eye(6)[ids] + rng.normal(0, 0.4, (images, 6))
    cameras = rng.integers(0, 3, images) if with_cameras else np.full(images, NO_CAMERA)
    return RetrievalSet(features.astype(np.float32), ids, cameras)


def all_pairs(features):
    same, other = [], []
    for a, b in itertools.combinations(range(len(features)), 2):
        distance = np.linalg.norm(features.features[a] - features.features[b])
        if features.ids[a] != features.ids[b]:
            other.append(distance)
        elif features.cameras[a] == NO_CAMERA or features.cameras[a] != features.cameras[b]:
            same.append(distance)
    return np.array(same), np.array(other)


@pytest.mark.parametrize("with_cameras", [True, False])
def test_rates_are_those_of_all_pairs_of_two_pictures(with_cameras):
    features = some_set(with_cameras)
    same, other = all_pairs(features)
    calibration = calibrate(features)
    assert (calibration.same_pairs, calibration.other_pairs) == (len(same), len(other))
    assert (calibration.images, calibration.vehicles) == (60, 6)
    for rate in (0.01, 0.1, 0.5):
        threshold = calibration.threshold(rate)
        assert threshold.false_alarms == pytest.approx((other < threshold.distance).mean(), abs=1e-9)
        assert threshold.found == pytest.approx((same < threshold.distance).mean(), abs=1e-9)
        # No larger than asked for, and hardly smaller: the curve has 128 points to a doubling.
        assert threshold.false_alarms <= rate
        assert (other < threshold.distance * 1.01).mean() > rate
    for distance in (0.3, 0.9, 100.0):
        beyond = calibration.beyond(distance)
        assert beyond.false_alarms >= (other < distance).mean() - 1e-9
        assert beyond.found >= (same < distance).mean() - 1e-9


def test_a_file_gives_everything_back(tmp_path):
    calibration = calibrate(some_set(True), {"step": 3})
    calibration.to_json(tmp_path / "calibration.json")
    loaded = Calibration.from_json(tmp_path / "calibration.json")
    np.testing.assert_array_equal(loaded.roc, calibration.roc)
    assert loaded.describe() == calibration.describe()
    assert loaded.context == {"step": 3}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format_version": 1}', '{"format_version": 2}'])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "calibration.json"
    with pytest.raises(UserError, match="cannot be read"):
        Calibration.from_json(path)
    path.write_text(text)
    with pytest.raises(UserError, match="is not a calibration"):
        Calibration.from_json(path)


def test_rates_that_cannot_be_told_are_refused():
    calibration = calibrate(some_set(True))
    with pytest.raises(UserError, match="between 0 and 1"):
        calibration.threshold(1.0)
    with pytest.raises(UserError, match="cannot be told from"):
        calibration.threshold(1e-6)
