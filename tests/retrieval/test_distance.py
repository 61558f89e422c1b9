"""The product that everything rests on gives one pair one value, wherever the pair stands."""

import jax
import numpy as np
import pytest

from mfg_jax.retrieval import distance


def distances_of(use, query, gallery, rows=None):
    rows = rows or use.query_rows(len(query), None)
    norms = distance.checked_squared_norms(gallery, "gallery")
    tiles = list(distance.distance_tiles(use, rows, query, gallery, norms))
    return np.concatenate([tile.values for tile in tiles], axis=1)


@pytest.mark.parametrize("width", [1, 7, 16, 100, 512, 2048])
def test_one_value_for_one_pair_in_any_block(width):
    rng = np.random.default_rng(width)
    query = rng.standard_normal((130, width), dtype=np.float32)
    gallery = rng.standard_normal((700, width), dtype=np.float32)
    use = distance.use_devices(None)
    whole = distances_of(use, query, gallery)
    for start, stop, rows in ((0, 130, 192), (0, 64, 64), (100, 130, 64), (5, 6, 64)):
        np.testing.assert_array_equal(whole[start:stop], distances_of(use, query[start:stop], gallery, rows))
    for start, stop in ((0, 64), (1, 3), (650, 700), (30, 600)):
        np.testing.assert_array_equal(whole[:, start:stop], distances_of(use, query, gallery[start:stop]))
    for count in (2, 5, 8):
        several = distance.use_devices(jax.devices()[:count])
        np.testing.assert_array_equal(whole, distances_of(several, query, gallery))


@pytest.mark.parametrize("width", [3, 17, 256])
def test_equal_images_are_at_equal_distances(width):
    rng = np.random.default_rng(width)
    query = rng.standard_normal((40, width), dtype=np.float32)
    one = rng.standard_normal((333, width), dtype=np.float32)
    both = distances_of(distance.use_devices(None), query, np.concatenate([one, one]))
    np.testing.assert_array_equal(both[:, :333], both[:, 333:])


def test_distances_of_pairs_are_those_of_tiles():
    rng = np.random.default_rng(0)
    query = rng.standard_normal((150, 33), dtype=np.float32)
    gallery = rng.standard_normal((1200, 33), dtype=np.float32)
    use = distance.use_devices(None)
    whole = distances_of(use, query, gallery)
    row = np.sort(rng.integers(0, 150, 5000))
    item = rng.integers(0, 1200, 5000)
    first = np.searchsorted(row, np.arange(151))
    norms = distance.checked_squared_norms(gallery, "gallery")
    np.testing.assert_array_equal(
        distance.pair_distances(use, query, gallery, norms, row, item, first), whole[row, item]
    )


def test_full_float32_precision():
    rng = np.random.default_rng(1)
    query = rng.standard_normal((64, 512))
    gallery = rng.standard_normal((640, 512))
    exact = (gallery**2).sum(axis=1) - 2 * query @ gallery.T
    got = distances_of(distance.use_devices(None), query.astype(np.float32), gallery.astype(np.float32))
    # TF32 or bfloat16 products would be off by 1e-1 and more.
    assert np.abs(got - exact).max() < 1e-3


def test_memory_mapped_gallery(tmp_path):
    rng = np.random.default_rng(2)
    gallery = rng.standard_normal((500, 20), dtype=np.float32)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    use = distance.use_devices(None)
    np.testing.assert_array_equal(
        distances_of(use, gallery[:9], mapped), distances_of(use, gallery[:9], gallery)
    )
