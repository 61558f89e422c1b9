"""Decoding a JPEG to the fixed size the network sees. Runs in input workers, so it never touches JAX."""

import cv2
import numpy as np


def decode(encoded: bytes, height: int, width: int) -> np.ndarray:
    """Decodes an image and stretches it to `height` x `width`, as vehicle re-identification does (no cropping).

    Args:
        encoded: a JPEG (or any format OpenCV reads).
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        `(height, width, 3)` uint8 RGB.

    Raises:
        ValueError: the bytes are not an image that can be decoded.
    """
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("The bytes are not an image that can be decoded.")
    return resize(image, height, width)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretches `(H, W, 3)` uint8 to `(height, width, 3)`, averaging where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height and image.shape[1] > width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
