"""Decoding a picture to the fixed size the network sees. Runs in input workers, so it never touches JAX.

Training, evaluation, the notebook interface and the reports all decode by this one function. Its result is a function
of the file and the size alone: libjpeg-turbo and OpenCV's resizing compute in integers or in a fixed order, and
give the same pixels with and without vector instructions.
"""

import cv2
import numpy as np

from tfds_builders.images import END_OF_IMAGE, find_jpeg_scan, read_jpeg_size

# OpenCV's flag for decoding a JPEG at a fraction of its size, by the fraction's denominator. The colour flags of the
# same name give blue, green, red; these are joined with `IMREAD_COLOR_RGB`.
_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def decode(encoded: bytes, height: int, width: int) -> np.ndarray:
    """Decodes an image and stretches it to `height` x `width`, as vehicle re-identification does (no cropping).

    Grey, CMYK, palette and 16-bit pictures become 8-bit RGB, transparency is dropped, and a picture is turned as its
    EXIF header says.

    Args:
        encoded: a JPEG (or any format OpenCV reads).
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        `(height, width, 3)` uint8 RGB.

    Raises:
        ValueError: the bytes are not an image that can be decoded, or a JPEG that is cut off.
    """
    return resize(decode_reduced(encoded, height, width), height, width)


def decode_reduced(encoded: bytes, height: int, width: int) -> np.ndarray:
    """Decodes an image, and a JPEG of at least twice the size at 1/2, 1/4 or 1/8, which saves time (`reduction`).

    Args:
        encoded: a JPEG (or any format OpenCV reads).
        height: that the result is going to be brought to, in pixels.
        width: likewise.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: the bytes are not an image that can be decoded, or a JPEG that is cut off.
    """
    flags = cv2.IMREAD_COLOR_RGB
    if encoded.startswith(b"\xff\xd8"):
        # libjpeg fills what is missing with grey, and only warns. A header may hold a whole thumbnail, end marker
        # included; one that is not understood is left to libjpeg.
        scan = find_jpeg_scan(encoded)
        if encoded.rfind(END_OF_IMAGE) < (scan if scan < len(encoded) else 0):
            raise ValueError("The picture is cut off: the end-of-image marker is missing.")
        flags |= _REDUCED.get(reduction(encoded, height, width), 0)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:  # no bytes at all, or more pixels than OpenCV takes
        raise ValueError(f"The bytes are not an image that can be decoded ({error.err}).") from error
    if image is None:
        raise ValueError("The bytes are not an image that can be decoded.")
    return image


def reduction(encoded: bytes, height: int, width: int) -> int:
    """By which factor a JPEG can be decoded smaller and still be no smaller than `height` x `width`.

    libjpeg reduces within the discrete cosine transform of each block: frequencies that the smaller picture cannot show
    are never computed. The factor depends on the header alone, so all hosts take the same.

    Args:
        encoded: a JPEG.
        height: wanted, in pixels.
        width: wanted, in pixels.

    Returns:
        1, 2, 4 or 8.
    """
    size = read_jpeg_size(encoded)
    if size is None:
        return 1
    # The shorter against the longer side: the EXIF header, not read here, may swap height and width.
    fits = min(size) // max(height, width)
    return max((factor for factor in _REDUCED if factor <= fits), default=1)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretches `(H, W, 3)` uint8 to `(height, width, 3)`.

    An axis that shrinks to half or less is averaged, any other interpolated linearly. Between half and the whole,
    linear interpolation is nearer to a Lanczos filter than averaging is (docs/performance.md), and several times as
    fast.
    """
    averaged = tuple(
        wanted if 2 * wanted <= length else length
        for length, wanted in zip(image.shape[:2], (height, width), strict=True)
    )
    if averaged != image.shape[:2]:
        image = cv2.resize(image, averaged[::-1], interpolation=cv2.INTER_AREA)
    if averaged != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image
