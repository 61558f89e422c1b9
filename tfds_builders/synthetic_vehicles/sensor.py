"""What a sensor does to a picture: resolution, blur, exposure and colour cast, noise."""

import functools

import cv2
import numpy as np

from tfds_builders.synthetic_vehicles.camera import Camera

_NOISE_SIDE = 768


@functools.cache
def _noise_tile() -> np.ndarray:
    """(768, 768, 3) int8 Gaussian noise with standard deviation 32; shots take windows of it."""
    rng = np.random.Generator(np.random.PCG64(7))
    noise = rng.standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3), dtype=np.float32) * np.float32(32)
    return np.clip(np.rint(noise), -127, 127).astype(np.int8)


def _motion_kernel(length: float, angle: float) -> np.ndarray:
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    reach = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    middle = (side - 1) / 2
    start, end = np.rint((middle - reach) * 16).astype(int), np.rint((middle + reach) * 16).astype(int)
    cv2.line(kernel, start.tolist(), end.tolist(), (1.0,), 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()


def expose(canvas: np.ndarray, size: tuple[int, int], camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Turns a supersampled scene into the camera's picture.

    Args:
        canvas: (S*H, S*W, 3) uint8 scene.
        size: (H, W) of the picture.
        camera: Whose sensor it is.
        rng: The shot's generator.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = size
    resolution = min(1.0, camera.resolution * rng.uniform(0.9, 1.1))
    rows, columns = max(12, round(height * resolution)), max(12, round(width * resolution))
    image = cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA)
    motion = camera.motion * columns * rng.uniform(0.3, 1.0)
    if motion > 0.8:
        image = cv2.filter2D(image, -1, _motion_kernel(motion, rng.uniform(-0.5, 0.5)))
    defocus = camera.defocus * columns
    if defocus > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), defocus)
    image = cv2.LUT(image, camera.tone)
    top, left = rng.integers(0, _NOISE_SIDE // 2, size=2)
    noise = _noise_tile()[top : top + rows, left : left + columns]
    if noise.shape[:2] != (rows, columns):
        noise = cv2.resize(_noise_tile(), (columns, rows), interpolation=cv2.INTER_NEAREST)
    image = cv2.addWeighted(image, 1.0, noise, camera.noise / 32, 0.0, dtype=cv2.CV_8U)
    if (rows, columns) != size:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image
