"""Decoding: every kind of picture the same way, at a fraction of its size where that is enough, on every processor."""

import hashlib
import io
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

import mfg_jax
from mfg_jax.data.images import decode, reduction, resize
from tfds_builders.synthetic_vehicles.camera import SURVEILLANCE
from tfds_builders.synthetic_vehicles.pictures import Picture, take


def _picture(side: int) -> bytes:
    return take(Picture(0, 1, 1, 0, side, True, "light", SURVEILLANCE, 90))


@pytest.fixture(scope="module")
def large() -> bytes:
    """A drawn vehicle of 520 x 520 pixels."""
    return _picture(520)


def _pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.abs(left.astype(int) - right.astype(int))


def test_decoding_is_rgb_and_stretches_to_the_size():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :, 0] = 250  # red
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    np.testing.assert_array_equal(decode(encoded, 20, 20), np.full((20, 20, 3), (250, 0, 0), np.uint8))


def test_shrinking_averages():
    checkered = np.zeros((8, 8, 3), np.uint8)
    checkered[::2, ::2] = checkered[1::2, 1::2] = 200
    np.testing.assert_array_equal(resize(checkered, 4, 4), np.full((4, 4, 3), 100, np.uint8))


@pytest.mark.parametrize("size", [(8, 20), (12, 10), (8, 10), (24, 10), (24, 20), (3, 4)])
def test_each_axis_is_averaged_where_it_shrinks_to_half_or_less_and_interpolated_otherwise(size):
    """The two axes are independent: bringing one after the other to its size gives the same."""
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    height, width = size
    together = resize(image, height, width)
    assert together.shape == (height, width, 3)
    assert _difference(together, resize(resize(image, height, 20), height, width)).max() <= 1
    if 12 % height == 0 and 20 % width == 0:
        blocks = image.reshape(height, 12 // height, width, 20 // width, 3).mean(axis=(1, 3))
        assert np.abs(together - blocks).max() <= 1


@pytest.mark.parametrize("target", [(64, 64), (130, 100), (256, 256)])
def test_a_reduced_picture_is_like_the_whole_one_brought_to_the_size(large, target):
    assert reduction(large, *target) > 1
    difference = _difference(decode(large, *target), resize(_pixels(large), *target))
    # An eighth of this picture is 65 pixels wide: the hardest case, for 65 to 64 smooths again.
    assert difference.mean() < 2.5
    assert np.sqrt((difference**2).mean()) < 255 / 10 ** (35 / 20)  # 35 dB


@pytest.mark.parametrize(
    ("size", "target", "factor"),
    [
        ((64, 64), (64, 64), 1),
        ((127, 500), (64, 64), 1),
        ((128, 500), (64, 64), 2),
        ((500, 128), (64, 64), 2),
        ((511, 511), (64, 64), 4),
        ((512, 512), (64, 64), 8),
        ((2048, 2048), (64, 64), 8),
        ((200, 400), (100, 200), 1),  # for it may have to be turned
        ((400, 800), (100, 200), 2),
    ],
)
def test_the_reduction_never_goes_below_the_size(size, target, factor):
    encoded = cv2.imencode(".jpg", np.zeros((*size, 3), np.uint8))[1].tobytes()
    assert reduction(encoded, *target) == factor


@pytest.mark.parametrize(
    ("side", "target", "decibels"),
    [(96, 64, 0), (350, 256, 0), (700, 256, 2), (600, 256, 2), (520, 256, 5), (260, 64, 5)],
)
def test_the_result_is_about_as_near_to_a_lanczos_filter_as_the_usual_way_is(side, target, decibels):
    """The usual way: all of it decoded, and Pillow's antialiased bilinear filter.

    Where nothing is reduced ours is nearer; the last two, reduced to little more than the target, are the worst case.
    """
    encoded = _picture(side)
    whole = Image.open(io.BytesIO(encoded))
    ideal = np.asarray(whole.resize((target, target), Image.Resampling.LANCZOS))
    usual = np.asarray(whole.resize((target, target), Image.Resampling.BILINEAR))
    error = np.sqrt((_difference(decode(encoded, target, target), ideal) ** 2).mean())
    assert error < 10 ** (decibels / 20) * np.sqrt((_difference(usual, ideal) ** 2).mean())


def test_a_whole_jpeg_decodes_as_by_pillow(large):
    np.testing.assert_array_equal(decode(large, 520, 520), _pixels(large))


@pytest.mark.parametrize("kind", ["grey", "CMYK", "progressive", "4:4:4", "restarts"])
@pytest.mark.parametrize("side", [520, 256])
def test_other_kinds_of_jpeg(large, kind, side):
    image = Image.open(io.BytesIO(large))
    encoded = {
        "grey": lambda: _encode(image.convert("L"), "JPEG"),
        "CMYK": lambda: _encode(image.convert("CMYK"), "JPEG"),
        "progressive": lambda: _encode(image, "JPEG", progressive=True),
        "4:4:4": lambda: _encode(image, "JPEG", subsampling=0),
        "restarts": lambda: _encode(image, "JPEG", restart_marker_rows=1),
    }[kind]()
    decoded = decode(encoded, side, side)
    difference = _difference(decoded, resize(_pixels(encoded), side, side))
    assert difference.mean() < 1.5
    if kind == "grey":
        assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("target", [(52, 78), (13, 20)])
def test_a_picture_is_turned_as_its_exif_header_says(orientation, target):
    corners = np.zeros((120, 200, 3), np.uint8)
    corners[:60, :100], corners[:60, 100:], corners[60:, :100] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _encode(Image.fromarray(corners), "JPEG", exif=exif, quality=95)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    assert _difference(decode(encoded, *target), resize(turned, *target)).mean() < 4


def test_16_bits_palettes_and_transparency_become_rgb():
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 2**16, (6, 5, 3), dtype=np.uint16)
    encoded = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    assert np.abs(decode(encoded, 6, 5) - deep / 257).max() <= 1
    grey = rng.integers(0, 2**16, (6, 5), dtype=np.uint16)
    encoded = cv2.imencode(".png", grey)[1].tobytes()
    assert np.abs(decode(encoded, 6, 5) - grey[..., None] / 257).max() <= 1
    clear = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    np.testing.assert_array_equal(decode(_encode(Image.fromarray(clear), "PNG"), 6, 5), clear[..., :3])
    palette = Image.fromarray(clear[..., :3]).quantize(8)
    np.testing.assert_array_equal(decode(_encode(palette, "PNG"), 6, 5), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("keep", [2, 20, 300, 0.3, 0.9, -2, -1])
def test_a_cut_off_jpeg_is_an_error_and_not_half_grey(keep, large):
    length = keep if isinstance(keep, int) and keep > 0 else len(large) + keep
    length = int(len(large) * keep) if isinstance(keep, float) else length
    with pytest.raises(ValueError, match=r"cut off|not an image"):
        decode(large[:length], 64, 64)


def test_a_thumbnail_in_the_header_does_not_hide_that_a_jpeg_is_cut_off(large):
    comment = b"\xff\xfe\x00\x08EOI\xff\xd9!"
    decode(large[:2] + comment + large[2:], 64, 64)
    with pytest.raises(ValueError, match="cut off"):
        decode(large[:2] + comment + large[2:-50], 64, 64)


_HASH = """
import hashlib, sys
import mfg_jax
from mfg_jax.data.images import decode
digest = hashlib.sha256()
encoded = sys.stdin.buffer.read()
for size in ((64, 64), (256, 256), (300, 520), (700, 600), (700, 100)):
    digest.update(decode(encoded, *size))
print(digest.hexdigest())
"""


def test_the_pixels_do_not_depend_on_the_processors_vector_instructions(large):
    digest = hashlib.sha256()
    for size in ((64, 64), (256, 256), (300, 520), (700, 600), (700, 100)):
        digest.update(decode(large, *size))
    # libjpeg-turbo without any, OpenCV with those alone that every x86-64 processor has.
    plain = {
        "JSIMD_FORCENONE": "1",
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3,FP16,AVX,SSE4.2,SSE4.1,SSSE3",
    }
    run = subprocess.run(
        [sys.executable, "-c", _HASH],
        input=large,
        capture_output=True,
        check=True,
        cwd=pathlib.Path(mfg_jax.__file__).parents[1],
        env=os.environ | plain,
    )
    assert run.stdout.decode().strip() == digest.hexdigest()


def test_bytes_that_are_no_image_are_an_error():
    with pytest.raises(ValueError, match="not an image"):
        decode(b"no image", 4, 4)
    with pytest.raises(ValueError, match="not an image"):
        decode(b"", 4, 4)
