"""The background of a camera: road, lane marks, kerb, pavement, buildings, foliage, sky, and shadows."""

import dataclasses
import functools

import cv2
import numpy as np

from tfds_builders.synthetic_vehicles.camera import Camera, View
from tfds_builders.synthetic_vehicles.raster import fill, to_pixels
from tfds_builders.synthetic_vehicles.shapes import Shape

_NEAR = 0.5  # metres; polygons are clipped there
_REACH = 60.0  # metres of road drawn each way
_UP_LIGHT = 0.9  # share of direct light that level ground gets, on average


@dataclasses.dataclass(frozen=True)
class Scenery:
    """What stands in the vehicle's surroundings; lengths in metres, y measured to the left of the road.

    Attributes:
        quads: (Q, 4, 3) float32 corners, in painting order.
        colors: (Q, 3) RGB of the quads under white light.
        ground: (3,) RGB of the road.
        leaf_centres: (M, 3) float32.
        leaf_radii: (M,) float32.
        leaf_colors: (M, 3) RGB.
    """

    quads: np.ndarray
    colors: np.ndarray
    ground: np.ndarray
    leaf_centres: np.ndarray
    leaf_radii: np.ndarray
    leaf_colors: np.ndarray


def _strip(x0: float, x1: float, y0: float, y1: float, z: float = 0.0) -> np.ndarray:
    return np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], np.float32)


def _wall(rng: np.random.Generator, y: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """A row of buildings along the road at lateral distance `y`."""
    polygons = []
    x = -_REACH
    while x < _REACH:
        length, height = rng.uniform(10, 24), rng.uniform(5, 14)
        color = rng.uniform(90, 200) * rng.uniform(0.8, 1.1, size=3)
        face = np.array([(x, y, 0), (x + length, y, 0), (x + length, y, height), (x, y, height)], np.float32)
        polygons.append((face, color))
        step = rng.uniform(2.6, 4.5)
        for wx in np.arange(x + 1, x + length - 1.6, step):
            for wz in np.arange(1.0, min(height, 7.0) - 1.4, 3.0):
                window = np.array(
                    [(wx, y, wz), (wx + 1.5, y, wz), (wx + 1.5, y, wz + 1.5), (wx, y, wz + 1.5)], np.float32
                )
                polygons.append((window, 0.45 * color))
        x += length + rng.choice([0.0, 4.0])
    return polygons


@functools.lru_cache(maxsize=1024)
def make_scenery(scenery: int) -> Scenery:
    """Returns the surroundings of a camera from its `Camera.scenery`."""
    rng = np.random.Generator(np.random.PCG64([scenery, 4]))
    ground = rng.uniform(104, 150) + rng.uniform(-8, 8, size=3)
    paint = rng.uniform(205, 240) * np.array([1.0, 1.0, rng.choice([1.0, 0.7])])
    polygons: list[tuple[np.ndarray, np.ndarray]] = []
    left, right = rng.uniform(2.4, 6.5), -rng.uniform(2.4, 6.5)
    bushes: list[tuple[float, float, float]] = []  # x, y, radius
    for edge, side in ((left, 1.0), (right, -1.0)):
        kind = rng.integers(4)
        if kind == 0:  # grass
            verge = np.array([84, 112, 60]) * rng.uniform(0.8, 1.2)
        elif kind == 1:  # another carriageway
            verge = ground * rng.uniform(0.94, 1.06)
        else:  # paving
            verge = rng.uniform(120, 176) * np.array([1.0, 0.97, 0.92])
        polygons.append((_strip(-_REACH, _REACH, edge, edge + side * 60), verge))
        if kind == 1:
            polygons.append((_strip(-_REACH, _REACH, edge, edge + side * 0.16), paint))
        else:
            kerb = np.array([186.0, 184.0, 178.0]) * rng.uniform(0.8, 1.1)
            polygons.append((_strip(-_REACH, _REACH, edge, edge + side * 0.22), kerb))
        far = edge + side * rng.uniform(3, 9)
        if rng.random() < 0.65:
            polygons.extend(_wall(rng, far))
        if rng.random() < 0.7:
            for _ in range(int(rng.integers(14, 34))):
                bushes.append(
                    (
                        rng.uniform(-_REACH / 2, _REACH / 2),
                        far - side * rng.uniform(0.3, 2.0),
                        rng.uniform(0.7, 1.5),
                    )
                )
    dash = rng.random() < 0.7
    for y in (rng.uniform(1.4, 2.0), -rng.uniform(1.4, 2.0)):
        if dash:
            start = rng.uniform(0, 6)
            for x in np.arange(-_REACH / 2 + start, _REACH / 2, 6.0):
                polygons.insert(0, (_strip(x, x + 2.6, y - 0.07, y + 0.07), paint))
        else:
            polygons.insert(0, (_strip(-_REACH, _REACH, y - 0.07, y + 0.07), paint))
    for _ in range(int(rng.integers(0, 4))):  # patched asphalt
        x, y = rng.uniform(-10, 10), rng.uniform(-3, 3)
        patch = _strip(x, x + rng.uniform(1, 5), y, y + rng.uniform(0.6, 2))
        polygons.insert(0, (patch, ground * rng.uniform(0.82, 1.12)))
    return Scenery(
        np.stack([points for points, _ in polygons]),
        np.stack([color for _, color in polygons]),
        ground,
        *_leaves(rng, np.array(bushes, np.float32).reshape(-1, 3)),
    )


def _leaves(rng: np.random.Generator, bushes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Breaks (B, 3) bushes into clumps of leaves, brighter towards the top."""
    clumps = 14
    count = len(bushes)
    offsets = rng.standard_normal((count, clumps, 3)).astype(np.float32)
    offsets *= np.float32(0.75) / np.linalg.norm(offsets, axis=2, keepdims=True)
    radius = bushes[:, None, 2:]
    base = np.concatenate([bushes[:, :2], bushes[:, 2:] * np.float32(0.9)], axis=1)[:, None]
    centres = base + offsets * radius
    radii = radius[..., 0] * rng.uniform(0.25, 0.5, size=(count, clumps)).astype(np.float32)
    tint = np.array([74, 108, 52]) * rng.uniform(0.7, 1.2, size=(count, 1, 3))
    colors = tint * (1 + 0.55 * offsets[..., 2:]) * rng.uniform(0.85, 1.1, size=(count, clumps, 1))
    return centres.reshape(-1, 3), radii.ravel(), colors.reshape(-1, 3)


def _clip_near(points: np.ndarray, view: View) -> np.ndarray:
    """Cuts a polygon at the near plane; may return no points at all."""
    depth = (points - view.position) @ view.axes[2]
    if depth.min() >= _NEAR:
        return points
    if depth.max() <= _NEAR:
        return points[:0]
    kept = []
    for i in range(len(points)):
        j = (i + 1) % len(points)
        a, b = depth[i], depth[j]
        if a >= _NEAR:
            kept.append(points[i])
        if (a - _NEAR) * (b - _NEAR) < 0:
            kept.append(points[i] + (points[j] - points[i]) * ((_NEAR - a) / (b - a)))
    return np.array(kept, np.float32)


@functools.cache
def _grain() -> np.ndarray:
    """(512, 512) float32 texture of asphalt, mean 1."""
    rng = np.random.Generator(np.random.PCG64(5))
    fine = rng.standard_normal((512, 512)).astype(np.float32)
    coarse = cv2.resize(
        rng.standard_normal((32, 32)).astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC
    )
    return (1 + 0.045 * fine + 0.03 * coarse).astype(np.float32)


def _visible_quads(scenery: Scenery, view: View, window: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Projects the scenery's quads; drops those outside the window. Returns (index, (K, 2) points)."""
    corners = scenery.quads.reshape(-1, 3)
    plane, depth = view.project(corners)
    plane = plane.reshape(-1, 4, 2)
    near = (depth < _NEAR).reshape(-1, 4)
    low, high = plane.min(axis=1), plane.max(axis=1)
    outside = (high < window[:2]).any(axis=1) | (low > window[2:]).any(axis=1)
    crossing = np.logical_and(near.any(axis=1), ~near.all(axis=1))
    # A wall on the camera's own side of the road stands behind the camera or would hide the road: left out.
    wall_y = np.where(scenery.quads[:, :, 2].max(axis=1) > 0, scenery.quads[:, 0, 1], 0)
    wrong_side = (view.position[1] - wall_y) * np.sign(wall_y) > 0
    seen = np.logical_and(crossing | ~(outside | near.all(axis=1)), ~wrong_side)
    result = []
    for index in np.flatnonzero(seen).tolist():
        if crossing[index]:
            result.append((index, view.project(_clip_near(scenery.quads[index], view))[0]))
        else:
            result.append((index, plane[index]))
    return result


def _paint_leaves(
    canvas: np.ndarray, scenery: Scenery, light: np.ndarray, view: View, window: np.ndarray
) -> None:
    """Paints foliage that stands behind the vehicle's place, from far to near."""
    height, width = canvas.shape[:2]
    plane, depth = view.project(scenery.leaf_centres)
    scale = np.float32(width / (window[2] - window[0]))
    pixels = (plane - window[:2].astype(np.float32)) * scale
    sizes = scenery.leaf_radii * scale / depth
    reach = sizes[:, None]
    behind = depth > np.linalg.norm(view.position) + 2.0
    inside = np.logical_and(pixels > -reach, pixels < np.array([width, height], np.float32) + reach)
    chosen = np.flatnonzero(np.logical_and(behind, inside.all(axis=1)))
    chosen = chosen[np.argsort(-depth[chosen], kind="stable")]
    colors = np.clip(scenery.leaf_colors[chosen] * light, 0, 255).tolist()
    for (x, y), size, color in zip(pixels[chosen].tolist(), sizes[chosen].tolist(), colors, strict=True):
        cv2.circle(canvas, (round(x), round(y)), max(1, round(size)), color, cv2.FILLED)


def paint_background(
    canvas: np.ndarray, camera: Camera, view: View, window: np.ndarray, rng: np.random.Generator
) -> None:
    """Paints everything behind the vehicle.

    Args:
        canvas: (H, W, 3) uint8, painted in place.
        camera: Gives light and scenery.
        view: The shot's pose.
        window: (4,) the crop in image-plane coordinates.
        rng: The shot's generator.
    """
    height, width = canvas.shape[:2]
    scenery = make_scenery(camera.scenery)
    level_light = camera.ambient_rgb + _UP_LIGHT * camera.sun_rgb * camera.sun[2]
    upright_light = 0.66 * camera.ambient_rgb + 0.4 * camera.sun_rgb
    # The horizon: where a level direction meets the image plane (roll is small enough to ignore).
    forward = view.axes[2]
    level = np.array([forward[0], forward[1], 0.0], np.float32)
    local = view.axes @ (level / np.linalg.norm(level))
    horizon = (local[1] / local[2] - window[1]) / (window[3] - window[1]) * height
    sky_rows = int(np.clip(horizon, 0, height))
    canvas[:] = np.clip(scenery.ground * level_light, 0, 255).astype(np.uint8)
    if sky_rows:
        canvas[:sky_rows] = camera.sky_rgb.astype(np.uint8)
    colors = np.clip(scenery.colors * level_light, 0, 255).tolist()
    for index, points in _visible_quads(scenery, view, window):
        fill(canvas, np.clip(to_pixels(points, window, width), -(1 << 17), 1 << 17), colors[index])
    if len(scenery.leaf_radii):
        _paint_leaves(canvas, scenery, upright_light, view, window)
    top, left = rng.integers(0, 512 - 256, size=2)
    grain = _grain()[top : top + 256, left : left + 256]
    if grain.shape != (height, width):
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(canvas, cv2.merge([grain, grain, grain]), dst=canvas, dtype=cv2.CV_8U)


def paint_shadow(canvas: np.ndarray, camera: Camera, view: View, window: np.ndarray, shape: Shape) -> None:
    """Darkens the ground under a vehicle, and beside it on the side away from the light.

    Args:
        canvas: (H, W, 3) uint8, darkened in place.
        camera: Gives the light's direction and strength.
        view: The shot's pose.
        window: (4,) the crop in image-plane coordinates.
        shape: The vehicle's measures.
    """
    rows, columns = canvas.shape[0] // 4, canvas.shape[1] // 4
    x, y = shape.length / 2, shape.width / 2
    foot = np.array([(x, y, 0), (x, -y, 0), (-x, -y, 0), (-x, y, 0)], np.float32)
    reach = -camera.sun[:2] / max(float(camera.sun[2]), 0.35) * np.float32(0.75 * shape.height)
    cast = foot.copy()
    cast[:, :2] = foot[:, :2] * np.float32(0.9) + reach
    weight = float(camera.sun_rgb.mean() / (camera.sun_rgb.mean() + camera.ambient_rgb.mean()))
    factor = np.ones((rows, columns), np.float32)
    sun_shadow = cv2.convexHull(to_pixels(view.project(np.concatenate([foot, cast]))[0], window, columns))
    cv2.fillPoly(factor, [sun_shadow], (1 - 0.75 * weight,), cv2.LINE_8, 4)
    contact = to_pixels(view.project(foot * np.array([1.0, 1.04, 1.0], np.float32))[0], window, columns)
    cv2.fillPoly(factor, [contact], (0.34,), cv2.LINE_8, 4)
    factor = cv2.resize(
        cv2.blur(factor, (3, 3)), (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR
    )
    cv2.multiply(canvas, cv2.merge([factor, factor, factor]), dst=canvas, dtype=cv2.CV_8U)
