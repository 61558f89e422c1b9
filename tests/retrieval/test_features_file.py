"""Features files give back what went in, and nothing half-written."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from mfg_jax.errors import UserError
from mfg_jax.retrieval import RetrievalSet, evaluate, load_features, save_features
from mfg_jax.retrieval import features_file as features_file_module


def some_set(images=50, seed=0):
    rng = np.random.default_rng(seed)
    return RetrievalSet(
        rng.standard_normal((images, 12)), rng.integers(-3, 9, images), rng.integers(0, 4, images)
    )


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_gives_everything_back(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(features_file_module, "_ROWS_A_GROUP", 16)
    features = some_set()
    names = [f"käfer {place}.jpg" for place in range(50)]
    path = tmp_path / f"gallery{suffix}"
    save_features(path, features, names, {"step": 4})
    loaded = load_features(path)
    for name in ("features", "ids", "cameras"):
        np.testing.assert_array_equal(getattr(loaded.features, name), getattr(features, name))
    assert list(loaded.names) == names
    assert loaded.context == {"step": 4}
    assert list(tmp_path.iterdir()) == [path]
    query = some_set(20, 1)
    assert evaluate(query, loaded.features).mean_ap == evaluate(query, features).mean_ap


def test_parquet_is_plain_columns_for_other_programs(tmp_path):
    features = some_set()
    save_features(tmp_path / "gallery.parquet", features, [str(place) for place in range(50)])
    table = pq.read_table(tmp_path / "gallery.parquet")
    assert table.column_names == ["name", "id", "camera", "embedding"]
    np.testing.assert_array_equal(
        np.array(table.column("embedding").to_pylist(), np.float32), features.features
    )


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_bad_files_are_a_clear_error(tmp_path, suffix):
    path = tmp_path / f"gallery{suffix}"
    with pytest.raises(UserError, match="There is no features file"):
        load_features(path)
    path.write_bytes(b"not such a file")
    with pytest.raises(UserError, match="cannot be read"):
        load_features(path)


def test_other_mistakes_are_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.parquet or \.npz"):
        save_features(tmp_path / "gallery.csv", some_set(2), ["a", "b"])
    with pytest.raises(UserError, match=r"ends in \.parquet or \.npz"):
        load_features(tmp_path / "gallery.csv")
    with pytest.raises(UserError, match="1 names for 2 embeddings"):
        save_features(tmp_path / "gallery.npz", some_set(2), ["a"])
    assert not list(tmp_path.iterdir())
