"""`search` against plain sorting, and its independence of blocks, devices and where the gallery lies."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_oracle import squared_distances

from mfg_jax.errors import UserError
from mfg_jax.retrieval import distance, search


def nearest_plainly(query, gallery, k):
    squared = squared_distances(query, gallery)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(squared, order, axis=1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_agrees_with_sorting_everything(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    queries, images, width = (data.draw(st.integers(1, most)) for most in (80, 300, 4))
    k = data.draw(st.integers(1, images))
    # Small integers: float32 is exact, and ties are many.
    query = rng.integers(-2, 3, (queries, width)).astype(np.float32)
    gallery = rng.integers(-2, 3, (images, width)).astype(np.float32)
    index, distances = search(query, gallery, k, block_size=data.draw(st.none() | st.integers(1, 100)))
    want_index, want_distances = nearest_plainly(query, gallery, k)
    np.testing.assert_array_equal(index, want_index)
    np.testing.assert_allclose(distances, want_distances, rtol=1e-6)
    assert index.dtype == np.int64
    assert distances.dtype == np.float32


def real_valued(images, width, seed=0):
    return np.random.default_rng(seed).standard_normal((images, width), dtype=np.float32)


def test_same_bits_for_any_block_size_tile_size_and_device_count(monkeypatch):
    query = real_valued(150, 40, 1)
    gallery = np.concatenate([real_valued(700, 40, 2)] * 2)
    want = search(query, gallery, 30)
    for options in ({"block_size": 1}, {"block_size": 70}, {"devices": jax.devices()[:3]}):
        for got, expected in zip(search(query, gallery, 30, **options), want, strict=True):
            np.testing.assert_array_equal(got, expected)
    monkeypatch.setattr(distance, "_CPU_BLOCK_VALUES", 2**15)
    for got, expected in zip(search(query, gallery, 30), want, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("count", [1, 4])
def test_accelerator_path_finds_the_same(monkeypatch, count):
    query = real_valued(70, 16, 3)
    gallery = np.concatenate([real_valued(500, 16, 4)] * 2)
    want = search(query, gallery, 70)
    monkeypatch.setattr(distance.Devices, "on_cpu", property(lambda self: False))
    monkeypatch.setattr(distance, "_ACCELERATOR_ROWS", 64)
    monkeypatch.setattr(distance, "_ACCELERATOR_COLUMNS", 64)
    for got, expected in zip(search(query, gallery, 70, devices=jax.devices()[:count]), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_an_image_is_at_distance_zero_from_itself():
    gallery = 100 + real_valued(300, 64)
    index, distances = search(gallery[:50], gallery, 1)
    np.testing.assert_array_equal(index[:, 0], np.arange(50))
    np.testing.assert_array_equal(distances, 0)


def test_memory_mapped_gallery_with_progress(tmp_path, capsys):
    gallery = real_valued(2000, 32)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    index, distances = search(gallery[:20], mapped, 5, progress=True)
    want_index, want_distances = nearest_plainly(gallery[:20], gallery, 5)
    np.testing.assert_array_equal(index, want_index)
    np.testing.assert_allclose(distances, want_distances, atol=1e-5)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("query", "gallery", "k", "message"),
    [
        (
            real_valued(2, 3),
            real_valued(5, 3),
            6,
            "k is 6; it must be between 1 and the size of the gallery, 5",
        ),
        (real_valued(2, 3), real_valued(5, 3), 0, "k is 0"),
        (real_valued(2, 3), real_valued(5, 4), 1, "Query embeddings have 3 numbers"),
        (real_valued(0, 3), real_valued(5, 3), 1, "The query set is empty"),
        (
            real_valued(2, 3),
            np.full((5, 3), np.nan, np.float32),
            1,
            "Row 0 of the gallery features holds nan",
        ),
        (real_valued(2, 3)[0], real_valued(5, 3), 1, "one embedding a row"),
        (np.array([["a"]]), real_valued(5, 3), 1, "expected float32"),
    ],
)
def test_bad_input_is_a_clear_error(query, gallery, k, message):
    with pytest.raises(UserError, match=message):
        search(query, gallery, k)
