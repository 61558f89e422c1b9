"""Checks of a release's pictures: that each is there, stays in its folder, is of a sane size and decodes."""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from tfds_builders.annotations import count_of, join_names
from tfds_builders.errors import DatasetError

# More than any camera takes, and 300 MB when decoded; a header that claims more is refused undecoded.
MAX_PIXELS = 100_000_000

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers (ITU T.81, table B.1): 0xC0-0xCF but for DHT (C4), JPG (C8) and DAC (CC).
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
END_OF_IMAGE = b"\xff\xd9"


def find_image_sizes(folder: Path, names: Sequence[str]) -> list[int | None]:
    """Finds the pictures of a split, without opening any.

    Args:
        folder: the image folder.
        names: the pictures' paths below it, with forward slashes, already checked to hold no "..".

    Returns:
        The files' sizes in bytes, in the order of `names`; None where there is no such file.

    Raises:
        DatasetError: a path leaves the folder through a symbolic link, or the folder cannot be read.
    """
    listing: dict[str, dict[str, os.DirEntry[str]]] = {}
    sizes: list[int | None] = []
    try:
        real_folder = os.path.realpath(folder)
        for name in names:
            parent, _, base = name.rpartition("/")
            if parent not in listing:
                listing[parent] = _list_folder(folder / parent, real_folder)
            entry = listing[parent].get(base)
            if entry is not None and entry.is_symlink():
                _refuse_leaving(entry.path, real_folder)
            sizes.append(entry.stat().st_size if entry is not None and entry.is_file() else None)
    except OSError as error:
        raise DatasetError(f"The image folder {folder} cannot be read: {error}.") from None
    return sizes


def require_images(folder: Path, names: Sequence[str]) -> list[int]:
    """Finds the pictures of a split as `find_image_sizes` does, and insists that all are there.

    Args:
        folder: the image folder.
        names: the pictures' paths below it.

    Returns:
        The files' sizes in bytes, in the order of `names`.

    Raises:
        DatasetError: the folder or a picture is missing, or a path leaves the folder.
    """
    sizes = find_image_sizes(folder, names)
    missing = [name for name, size in zip(names, sizes, strict=True) if size is None]
    if missing and not folder.is_dir():
        raise DatasetError(
            f"The image folder {folder} is missing; it should hold {count_of(len(names), 'picture')}, for "
            f"example {names[0]}."
        )
    if missing:
        raise DatasetError(
            f"{count_of(len(missing), 'picture')} of {len(names):,} that the list names "
            f"{'is' if len(missing) == 1 else 'are'} missing from {folder}: {join_names(missing)}. "
            "The copy is incomplete; unpack or download the release again."
        )
    return [size for size in sizes if size is not None]


def _list_folder(folder: Path, real_root: str) -> dict[str, os.DirEntry[str]]:
    """The entries of a folder by name; none where the folder does not exist."""
    if not folder.is_dir():
        return {}
    _refuse_leaving(folder, real_root)
    with os.scandir(folder) as entries:
        return {entry.name: entry for entry in entries}


def _refuse_leaving(path: str | Path, real_root: str) -> None:
    real = os.path.realpath(path)
    if real != real_root and not real.startswith(real_root + os.sep):
        raise DatasetError(
            f"{path} is a symbolic link that leads out of its image folder, to {real}. Links to other places "
            "are refused; copy the picture into the folder."
        )


def find_image_problem(data: bytes) -> str | None:
    """Says what is wrong with an encoded picture, or None when it decodes.

    The size is read from the header first, so that a picture too large to decode is never decoded.

    Args:
        data: the whole file: a JPEG or a PNG.

    Returns:
        A clause such as "is cut off", or None.
    """
    if not data:
        return "is an empty file"
    is_jpeg = data.startswith(b"\xff\xd8")
    if is_jpeg:
        size = read_jpeg_size(data)
    elif data.startswith(_PNG_SIGNATURE):
        size = _read_png_size(data)
    else:
        return "is neither a JPEG nor a PNG picture"
    if size is None:
        return "has a damaged header"
    height, width = size
    if height == 0 or width == 0:
        return f"has a size of {width:,} x {height:,} pixels"
    if height * width > MAX_PIXELS:
        return f"has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} allowed, and was not decoded"
    if is_jpeg and END_OF_IMAGE not in data[find_jpeg_scan(data) :]:
        # Some decoders fill what is missing with grey and say nothing.
        return "is cut off (the end-of-image marker is missing)"
    try:
        # A JPEG at an eighth of its size: every coded block is still read, in a quarter of the time.
        mode = cv2.IMREAD_REDUCED_COLOR_8 if is_jpeg else cv2.IMREAD_COLOR
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error:
        image = None
    return "does not decode" if image is None else None


def _read_png_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """The (height, width) in a JPEG's frame header, or None where the header is damaged."""
    for marker, start, length in _iterate_segments(data):
        if marker in _FRAME_MARKERS:
            if length < 5:
                return None
            # One byte of sample precision comes first (ITU T.81, B.2.2).
            height, width = struct.unpack(">HH", data[start + 1 : start + 5])
            return height, width
    return None


def find_jpeg_scan(data: bytes) -> int:
    """Where a JPEG's first scan's entropy-coded data starts: behind any thumbnail in the header segments."""
    for marker, start, length in _iterate_segments(data):
        if marker == _START_OF_SCAN:
            return start + length
    return len(data)


def _iterate_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start of its payload, payload length) up to the first scan or the first damage."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack(">H", data[position + 2 : position + 4])
        if length < 2 or position + 2 + length > len(data):
            return
        yield marker, position + 4, length - 2
        if marker == _START_OF_SCAN:
            return
        position += 2 + length
