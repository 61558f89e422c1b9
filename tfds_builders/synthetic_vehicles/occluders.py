"""Things between camera and vehicle, in named levels of how much of the vehicle's box they cover."""

import cv2
import numpy as np

from tfds_builders.synthetic_vehicles.body import build_body
from tfds_builders.synthetic_vehicles.camera import Camera, View
from tfds_builders.synthetic_vehicles.identity import PAINTS
from tfds_builders.synthetic_vehicles.raster import paint_mesh_on, painting_order, shade, silhouette
from tfds_builders.synthetic_vehicles.vehicle import paint_mesh

# Least and greatest share of the vehicle's box that is covered.
OCCLUSION_LEVELS: dict[str, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "light": (0.05, 0.15),
    "heavy": (0.20, 0.45),
}
_KINDS = ("pole", "foliage", "vehicle")
_KIND_SHARES = {"light": (0.4, 0.35, 0.25), "heavy": (0.1, 0.4, 0.5)}


def _coverage(mask: np.ndarray, box: np.ndarray) -> float:
    x0, y0, x1, y1 = box.tolist()
    return cv2.countNonZero(mask[y0:y1, x0:x1]) / ((y1 - y0) * (x1 - x0))


def _pole(
    canvas: np.ndarray,
    mask: np.ndarray,
    box: np.ndarray,
    share: float,
    camera: Camera,
    rng: np.random.Generator,
) -> None:
    """A post or sign, shaded as a cylinder."""
    rows = canvas.shape[0]
    x0, _, x1, _ = box.tolist()
    width = max(1.0, share * (x1 - x0) - 1)  # filling adds half a pixel on either side
    left = x0 + rng.random() * (x1 - x0 - width)
    lean = rng.uniform(-0.04, 0.04) * rows
    light = np.clip(camera.ambient_rgb + 0.5 * camera.sun_rgb, 0, 1.2)
    color = np.array([[120, 122, 124], [96, 84, 70], [168, 168, 164], [60, 74, 66]])[rng.integers(4)] * light
    bands = 5
    for k in range(bands):
        a, b = left + width * k / bands, left + width * (k + 1) / bands
        shine = 0.62 + 0.55 * np.sin(np.pi * (k + 1) / (bands + 1.5))
        corners = np.array([(a + lean, 0), (b + lean, 0), (b - lean, rows), (a - lean, rows)])
        points = np.rint(16 * corners - 8).astype(np.int32)
        cv2.fillPoly(canvas, [points], np.clip(color * shine, 0, 255).tolist(), cv2.LINE_8, 4)
        cv2.fillPoly(mask, [points], 1, cv2.LINE_8, 4)


def _foliage(
    canvas: np.ndarray,
    mask: np.ndarray,
    box: np.ndarray,
    share: float,
    camera: Camera,
    rng: np.random.Generator,
) -> None:
    """A branch or hedge that grows in from one side, leaf by leaf, until it covers its share of the box."""
    x0, y0, x1, y1 = box.tolist()
    extent = np.array([x1 - x0, y1 - y0])
    count = 260
    side = int(rng.integers(4))  # left, right, top, bottom
    along, depth = rng.uniform(-0.1, 1.1, size=count), np.sort(rng.random(count))
    outline = 0.75 + 0.35 * np.sin(along * rng.uniform(3, 8) + rng.uniform(0, 6))
    inwards = 0.85 * depth * outline - 0.08
    x, y = [(inwards, along), (1 - inwards, along), (along, inwards), (along, 1 - inwards)][side]
    centres = np.rint(np.stack([x, y], axis=1) * extent + (x0, y0)).astype(int).tolist()
    long = rng.uniform(0.035, 0.075, size=count) * np.sqrt(extent.prod())
    axes = np.maximum(1, np.rint(np.stack([long, 0.55 * long], axis=1))).astype(int).tolist()
    light = camera.ambient_rgb * 0.8 + camera.sun_rgb * 0.5
    tint = np.array([74, 112, 52]) * rng.uniform(0.8, 1.2, size=3)
    colors = np.clip(tint * rng.uniform(0.55, 1.5, size=(count, 1)) * light, 0, 255).tolist()
    angles = rng.uniform(0, 180, size=count).tolist()
    order = rng.random(count)
    used = 0
    while used < count and _coverage(mask, box) < share:
        cv2.ellipse(mask, centres[used], axes[used], angles[used], 0, 360, 1, cv2.FILLED)
        used += 1
    for index in np.argsort(order[:used]).tolist():
        cv2.ellipse(canvas, centres[index], axes[index], angles[index], 0, 360, colors[index], cv2.FILLED)


def _vehicle(
    canvas: np.ndarray,
    mask: np.ndarray,
    box: np.ndarray,
    share: float,
    camera: Camera,
    view: View,
    rng: np.random.Generator,
) -> None:
    """Another vehicle nearer to the camera, pushed in from the left or right until it covers its share."""
    rows, columns = mask.shape
    body = build_body(("sedan", "suv", "van", "hatchback")[rng.integers(4)])
    paint = list(PAINTS.values())[rng.integers(len(PAINTS))]
    mesh = paint_mesh(body.mesh, paint)
    order = painting_order(mesh, view, None)
    plane, _ = view.project(mesh.vertices)
    extent = plane.max(axis=0) - plane.min(axis=0)
    x0, y0, x1, y1 = box.tolist()
    scale = 1.15 * max((x1 - x0) / extent[0], (y1 - y0) / extent[1])
    points = (plane - plane.min(axis=0)) * scale
    size = np.ceil(extent * scale).astype(int) + 1
    # Its own small silhouette; then the shift is found by counting, without drawing again.
    shrink = max(1, columns // 64)
    small = silhouette(
        mesh,
        np.rint(points * (16 / shrink)).astype(np.int32),
        order,
        int(size[1]) // shrink + 1,
        int(size[0]) // shrink + 1,
    )
    down = rng.uniform(0.10, 0.35) * (y1 - y0)
    from_left = bool(rng.random() < 0.5)
    top = y0 + down
    seen_rows = int(np.clip((y1 - top) / shrink, 1, small.shape[0]))
    per_column = small[:seen_rows].sum(axis=0).astype(np.int64)
    wanted = share * (x1 - x0) * (y1 - y0) / shrink**2
    if from_left:  # its right part enters
        entered = np.cumsum(per_column[::-1])
        step = min(int(np.searchsorted(entered, wanted)) + 1, len(entered))
        left = x0 + step * shrink - small.shape[1] * shrink
    else:
        entered = np.cumsum(per_column)
        step = min(int(np.searchsorted(entered, wanted)) + 1, len(entered))
        left = x1 - step * shrink
    pixels = np.rint((points + np.array([left, top])) * 16 - 8).astype(np.int32)
    paint_mesh_on(canvas, mesh, pixels, order, shade(mesh, order, view, camera))
    mask[:] = silhouette(mesh, pixels, order, rows, columns)


def paint_occluder(
    canvas: np.ndarray,
    box: np.ndarray,
    camera: Camera,
    view: View,
    level: str,
    rng: np.random.Generator,
) -> np.ndarray:
    """Paints one occluder.

    Args:
        canvas: (H, W, 3) uint8, painted in place.
        box: (4,) int64 x0, y0, x1, y1 of the vehicle in canvas pixels.
        camera: Gives the light.
        view: The shot's pose, for an occluding vehicle.
        level: One of `OCCLUSION_LEVELS`.
        rng: The occluder's own generator.

    Returns:
        (H, W) uint8 mask, 1 where the occluder is.
    """
    mask = np.zeros(canvas.shape[:2], np.uint8)
    low, high = OCCLUSION_LEVELS[level]
    if high == 0.0:
        return mask
    # Aim a little inside the level's range: pixels round the share up or down.
    share = rng.uniform(low + 0.1 * (high - low), high - 0.2 * (high - low))
    kind = _KINDS[int(rng.choice(3, p=_KIND_SHARES[level]))]
    if kind == "pole":
        _pole(canvas, mask, box, share, camera, rng)
    elif kind == "foliage":
        _foliage(canvas, mask, box, share, camera, rng)
    else:
        _vehicle(canvas, mask, box, share, camera, view, rng)
    return mask
