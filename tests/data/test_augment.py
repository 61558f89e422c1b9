"""Augmentation: each operation does what it says, and an image's outcome depends on its key alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mfg_jax.data import augment as augmentation

OFF = {
    "flip_probability": 0.0,
    "crop_padding": 0,
    "erase_probability": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
}


def _images(count: int = 6, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (count, height, width, 3), dtype=np.uint8)


def _keys(count: int = 6, first: int = 0, step: int = 3) -> jax.Array:
    return augmentation.image_keys(jnp.uint32(7), jnp.int32(step), jnp.int32(first), count)


def _augment(keys: jax.Array, images: np.ndarray, **changes: float) -> np.ndarray:
    function = jax.jit(functools.partial(augmentation.augment, **(OFF | changes)))
    return np.asarray(function(keys, jnp.asarray(images)))


def _pixels(normalised: np.ndarray) -> np.ndarray:
    """Back to [0, 255], by the definition and not by the code under test."""
    return (normalised * np.array([0.229, 0.224, 0.225]) + np.array([0.485, 0.456, 0.406])) * 255


def test_with_everything_off_images_are_only_normalised():
    images = _images()
    np.testing.assert_allclose(_pixels(_augment(_keys(), images)), images, atol=1e-3)


def test_flip_mirrors_left_and_right():
    images = _images()
    np.testing.assert_allclose(
        _pixels(_augment(_keys(), images, flip_probability=1.0)), images[:, :, ::-1], atol=1e-3
    )


def test_crop_is_a_window_of_the_padded_image():
    images = _images()
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
    windows = {
        (image, top, left): padded[image, top : top + 20, left : left + 24]
        for image in range(6)
        for top in range(7)
        for left in range(7)
    }
    cropped = _pixels(_augment(_keys(), images, crop_padding=3))
    places = []
    for number, image in enumerate(cropped):
        found = [
            (top, left)
            for (source, top, left), window in windows.items()
            if source == number and np.abs(image - window).max() < 0.01
        ]
        assert len(found) == 1
        places += found
    assert len(set(places)) > 1


def test_erasing_sets_one_rectangle_to_the_mean_colour():
    images = _images(64)
    erased = _augment(_keys(64), images, erase_probability=1.0)
    for before, after in zip(_augment(_keys(64), images), erased, strict=True):
        gone = (after == 0.0).all(-1) & (before != 0.0).any(-1)
        assert 0.01 < gone.mean() < 0.45
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        np.testing.assert_allclose(after[~gone], before[~gone], rtol=1e-5, atol=1e-6)


def test_erasing_happens_as_often_as_asked():
    erased = _augment(_keys(400), _images(400), erase_probability=0.3)
    share = np.mean([(image == 0.0).all(-1).any() for image in erased])
    assert abs(share - 0.3) < 0.08


def test_colour_jitter_stays_within_its_bounds():
    grey = np.full((200, 4, 4, 3), 100, np.uint8)
    factors = _pixels(_augment(_keys(200), grey, brightness=0.2)).mean((1, 2, 3)) / 100
    assert 0.8 <= factors.min() < 0.83
    assert 1.17 < factors.max() <= 1.2001
    # Contrast and saturation leave a uniform grey alone.
    np.testing.assert_allclose(
        _pixels(_augment(_keys(200), grey, contrast=0.5, saturation=0.5)), grey, atol=1e-2
    )


def test_an_image_depends_on_its_place_in_the_global_batch_and_not_on_the_batching():
    images = _images(8)
    settings = OFF | {
        "flip_probability": 0.5,
        "crop_padding": 2,
        "erase_probability": 0.5,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    }
    whole = _augment(_keys(8), images, **settings)
    halves = [_augment(_keys(4, first), images[first : first + 4], **settings) for first in (0, 4)]
    np.testing.assert_allclose(whole, np.concatenate(halves), rtol=1e-5, atol=1e-5)
    assert not np.allclose(whole, _augment(_keys(8, step=4), images, **settings))
