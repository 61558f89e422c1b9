"""The checks of pictures: found, within their folder, of a sane size, decodable."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_releases import claim_size, encode_jpeg, write

from tfds_builders import images
from tfds_builders.errors import DatasetError

PICTURE = encode_jpeg(3, size=(64, 48))


def encode(image: np.ndarray, suffix: str = ".jpg", options: tuple[int, ...] = ()) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


@pytest.mark.parametrize(
    "data",
    [
        PICTURE,
        encode(np.zeros((5, 7), np.uint8)),  # grey
        encode(np.zeros((5, 7, 3), np.uint8), ".png"),
        encode(np.zeros((40, 50, 3), np.uint8), options=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        encode(np.zeros((40, 50, 3), np.uint8), options=(cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
        encode(np.zeros((1, 1, 3), np.uint8)),
        PICTURE + b"\0" * 100,  # padding behind the end is common and harmless
        PICTURE[:2] + b"\xff\xfe\x00\x08EOI\xff\xd9!" + PICTURE[2:],  # an end marker in a comment
    ],
    ids=["colour", "grey", "png", "progressive", "restarts", "one pixel", "padded", "comment"],
)
def test_good_pictures_pass(data):
    assert images.find_image_problem(data) is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty file"),
        (b"hello", "neither a JPEG nor a PNG"),
        (b"GIF89a" + bytes(100), "neither a JPEG nor a PNG"),
        (PICTURE[:100], "damaged header"),
        (PICTURE[: len(PICTURE) // 2], "cut off"),
        (PICTURE[:-2], "cut off"),
        (PICTURE[: len(PICTURE) // 2] + bytes(len(PICTURE) // 2), "cut off"),
        # A whole thumbnail in the header must not hide that the picture itself is cut off.
        (PICTURE[:2] + b"\xff\xfe\x00\x08EOI\xff\xd9!" + PICTURE[2:-50], "cut off"),
        (claim_size(60_000, 60_000), "60,000 x 60,000 pixels"),
        (claim_size(0, 10), "0 x 10 pixels"),
        (encode(np.zeros((5, 7, 3), np.uint8), ".png")[:-30], "does not decode"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4), "damaged header"),
    ],
)
def test_bad_pictures_are_told_apart(data, problem):
    assert problem in images.find_image_problem(data)


def test_a_huge_picture_is_never_decoded(monkeypatch):
    def fail(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", fail)
    assert "was not decoded" in images.find_image_problem(claim_size(60_000, 60_000))
    png = bytearray(encode(np.zeros((5, 7, 3), np.uint8), ".png"))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    assert "60,000 x 60,000" in images.find_image_problem(bytes(png))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(PICTURE) - 1))
def test_a_jpeg_cut_anywhere_is_found(length):
    assert images.find_image_problem(PICTURE[:length]) is not None


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, len(PICTURE)))
def test_any_bytes_give_an_answer_and_never_an_exception(noise, position):
    for data in (noise, b"\xff\xd8" + noise, PICTURE[:position] + noise + PICTURE[position:]):
        problem = images.find_image_problem(data)
        assert problem is None or isinstance(problem, str)


def test_sizes_are_found_in_order_and_missing_pictures_are_none(tmp_path):
    write(tmp_path / "b.jpg", b"123")
    write(tmp_path / "sub/a.jpg", b"12345")
    (tmp_path / "folder.jpg").mkdir()
    names = ["sub/a.jpg", "b.jpg", "sub/none.jpg", "folder.jpg", "no/where.jpg"]
    assert images.find_image_sizes(tmp_path, names) == [5, 3, None, None, None]


def test_links_within_the_folder_are_followed_and_links_out_are_refused(tmp_path):
    write(tmp_path / "images/a.jpg", b"123")
    write(tmp_path / "outside/secret.jpg", b"12")
    folder = tmp_path / "images"
    (folder / "inside.jpg").symlink_to(folder / "a.jpg")
    assert images.find_image_sizes(folder, ["inside.jpg"]) == [3]
    (folder / "out.jpg").symlink_to("../outside/secret.jpg")
    with pytest.raises(DatasetError, match="leads out of its image folder"):
        images.find_image_sizes(folder, ["a.jpg", "out.jpg"])
    (folder / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match="leads out of its image folder"):
        images.find_image_sizes(folder, ["sub/secret.jpg"])
    # The image folder itself may be a link: releases are large, and disks are added.
    (tmp_path / "elsewhere").symlink_to(folder)
    assert images.find_image_sizes(tmp_path / "elsewhere", ["a.jpg"]) == [3]
