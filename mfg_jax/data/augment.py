"""Augmentation on the device, keyed by (seed, step, position in the global batch).

Hosts only decode: they send `uint8`. The outcome for an image does not depend on how many devices or hosts there
are, because its key holds nothing but its place in the global batch. All of it is our decision: the paper's excerpts do
not speak of augmentation.
"""

import jax
import jax.numpy as jnp
from jax import Array

# Means and standard deviations of ImageNet's pixels, in [0, 1], as every published ResNet expects them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Weights of red, green and blue in luma (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)
# Random erasing's bounds (Zhong et al., AAAI 2020): share of the image's area, and aspect ratio.
_ERASED_AREA = (0.02, 0.4)
_ERASED_ASPECT = (0.3, 3.33)


def normalise(images: Array) -> Array:
    """Maps `(..., 3)` uint8 RGB (or float in [0, 255]) to float32 of about zero mean and unit variance."""
    channels = (1,) * (images.ndim - 1) + (3,)
    mean, std = (jnp.array(values, jnp.float32).reshape(channels) for values in (MEAN, STD))
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def image_keys(seed: int | Array, step: Array, first_position: Array, count: int) -> Array:
    """Keys of `count` consecutive images of the global batch, the first of them at `first_position`."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    positions = first_position + jnp.arange(count, dtype=jnp.int32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, positions)


def augment(
    keys: Array,
    images: Array,
    *,
    flip_probability: float,
    crop_padding: int,
    erase_probability: float,
    brightness: float,
    contrast: float,
    saturation: float,
) -> Array:
    """Flips, shifts, jitters the colour, normalises and erases, each image by its own key.

    Args:
        keys: `(B,)` random keys.
        images: `(B, H, W, 3)` uint8 RGB.
        flip_probability: of mirroring left and right.
        crop_padding: pixels of black padding on each side before a random crop back to the size.
        erase_probability: of one random rectangle set to the mean colour.
        brightness: each image's is multiplied by a factor within 1 +- this.
        contrast: likewise, about the image's mean grey.
        saturation: likewise, about each pixel's grey.

    Returns:
        `(B, H, W, 3)` float32, normalised.
    """

    def one(key: Array, image: Array) -> Array:
        flip, crop, jitter, erase = jax.random.split(key, 4)
        image = jnp.where(jax.random.bernoulli(flip, flip_probability), image[:, ::-1], image)
        image = _random_crop(crop, image, crop_padding)
        pixels = _jitter_colour(jitter, image.astype(jnp.float32), brightness, contrast, saturation)
        # After normalisation the mean colour is zero.
        return jnp.where(
            _erased(erase, image.shape[0], image.shape[1], erase_probability)[..., None],
            0.0,
            normalise(pixels),
        )

    return jax.vmap(one)(keys, images)


def _random_crop(key: Array, image: Array, padding: int) -> Array:
    if padding == 0:
        return image
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def _jitter_colour(key: Array, pixels: Array, brightness: float, contrast: float, saturation: float) -> Array:
    factors = 1.0 + jax.random.uniform(key, (3,), minval=-1.0) * jnp.array(
        [brightness, contrast, saturation], jnp.float32
    )
    pixels = pixels * factors[0]
    grey = pixels @ jnp.array(_LUMA, jnp.float32)
    mean_grey = jnp.mean(grey)
    pixels = (pixels - mean_grey) * factors[1] + mean_grey
    grey = ((grey - mean_grey) * factors[1] + mean_grey)[..., None]
    return jnp.clip((pixels - grey) * factors[2] + grey, 0.0, 255.0)


def _erased(key: Array, height: int, width: int, probability: float) -> Array:
    """`(H, W)` bool: where the rectangle lies; nowhere with probability `1 - probability`."""
    draws = jax.random.uniform(key, (5,))
    area = (_ERASED_AREA[0] + draws[0] * (_ERASED_AREA[1] - _ERASED_AREA[0])) * height * width
    log_low, log_high = jnp.log(jnp.array(_ERASED_ASPECT, jnp.float32))
    aspect = jnp.exp(log_low + draws[1] * (log_high - log_low))
    tall = jnp.minimum(jnp.sqrt(area * aspect), float(height))
    wide = jnp.minimum(jnp.sqrt(area / aspect), float(width))
    top, left = draws[2] * (height - tall), draws[3] * (width - wide)
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :]
    inside = ((rows >= top) & (rows < top + tall)) & ((columns >= left) & (columns < left + wide))
    return inside & (draws[4] < probability)
