"""One picture: an identity before a camera, at one moment."""

import dataclasses

import numpy as np

from tfds_builders.synthetic_vehicles.camera import SURVEILLANCE, CameraStyle, View, aim, make_camera
from tfds_builders.synthetic_vehicles.identity import describe
from tfds_builders.synthetic_vehicles.occluders import OCCLUSION_LEVELS, paint_occluder
from tfds_builders.synthetic_vehicles.raster import (
    paint_glow,
    paint_mesh_on,
    painting_order,
    shade,
    silhouette,
    to_pixels,
)
from tfds_builders.synthetic_vehicles.scene import paint_background, paint_shadow
from tfds_builders.synthetic_vehicles.sensor import expose
from tfds_builders.synthetic_vehicles.shapes import SHAPES
from tfds_builders.synthetic_vehicles.vehicle import build_vehicle

# The scene is drawn at twice the picture's size and averaged down, which smooths edges.
_SUPERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class Layers:
    """A picture and the masks behind it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        vehicle: (S*H, S*W) uint8, 1 where the vehicle is (hidden or not), before the sensor.
        occluder: (S*H, S*W) uint8, 1 where an occluder is, before the sensor.
        box: (4,) int, x0, y0, x1, y1 of the vehicle in the masks' pixels.
    """

    image: np.ndarray
    vehicle: np.ndarray
    occluder: np.ndarray
    box: np.ndarray


def _shot_generator(seed: int, identity: int, camera: int, shot: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, 6, identity, camera, shot, purpose]))


def _vehicle_box(seed: int, identity: int, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Projects a vehicle; returns its vertices and the box round them in image-plane coordinates."""
    plane, _ = view.project(build_vehicle(seed, identity).vertices)
    return plane, np.concatenate([plane.min(axis=0), plane.max(axis=0)]).astype(np.float64)


def _view(
    seed: int, identity: int, camera: int, shot: int, cameras: CameraStyle
) -> tuple[View, np.random.Generator]:
    rng = _shot_generator(seed, identity, camera, shot, 0)
    shape = SHAPES[describe(seed, identity).body]
    return aim(make_camera(seed, camera, cameras), cameras, shape.length, shape.height, rng), rng


def box_aspect(
    seed: int, identity: int, camera: int, shot: int, *, cameras: CameraStyle = SURVEILLANCE
) -> float:
    """Returns width over height of the vehicle's box in a shot, for crops that follow the box."""
    view, _ = _view(seed, identity, camera, shot, cameras)
    _, box = _vehicle_box(seed, identity, view)
    return float((box[2] - box[0]) / (box[3] - box[1]))


def _draw(
    seed: int,
    identity: int,
    camera: int,
    shot: int,
    size: int | tuple[int, int],
    occlusion: str,
    cameras: CameraStyle,
    *,
    with_vehicle_mask: bool,
) -> Layers:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16:
        raise ValueError(f"size is {size}; a picture needs at least 16 pixels a side")
    if occlusion not in OCCLUSION_LEVELS:
        raise ValueError(f"occlusion is {occlusion!r}; expected one of {', '.join(OCCLUSION_LEVELS)}")
    shape = SHAPES[describe(seed, identity).body]
    spec = make_camera(seed, camera, cameras)
    view, rng = _view(seed, identity, camera, shot, cameras)
    mesh = build_vehicle(seed, identity)
    plane, box = _vehicle_box(seed, identity, view)

    # The crop: the box with a border, widened to the picture's aspect and shifted a little.
    longer = max(box[2] - box[0], (box[3] - box[1]) * width / height)
    span_x = longer * (1 + 2 * rng.uniform(*cameras.margin))
    spans = np.array([span_x, span_x * height / width])
    slack = (spans - (box[2:] - box[:2])) / 2
    centre = (box[:2] + box[2:]) / 2 + np.minimum(slack, 0.06 * spans) * rng.uniform(-1, 1, size=2)
    window = np.concatenate([centre - spans / 2, centre + spans / 2])

    rows, columns = _SUPERSAMPLING * height, _SUPERSAMPLING * width
    canvas = np.empty((rows, columns, 3), np.uint8)
    paint_background(canvas, spec, view, window, rng)
    paint_shadow(canvas, spec, view, window, shape)
    box_front = shape.cargo_box[1] if shape.cargo_box else shape.bed[1] if shape.bed else None
    order = painting_order(mesh, view, box_front)
    pixels = to_pixels(plane, window, columns)
    paint_mesh_on(canvas, mesh, pixels, order, shade(mesh, order, view, spec))
    if spec.lamps:
        metre = columns / span_x / float(np.linalg.norm(view.position))
        paint_glow(canvas, mesh, pixels, order, 0.55 * spec.lamps, 0.25 * metre)
    scale = columns / (window[2] - window[0])
    pixel_box = np.clip(
        np.rint((box - np.tile(window[:2], 2)) * scale).astype(np.int64), 0, [columns, rows, columns, rows]
    )
    occluder = paint_occluder(
        canvas, pixel_box, spec, view, occlusion, _shot_generator(seed, identity, camera, shot, 1)
    )
    image = expose(canvas, (height, width), spec, _shot_generator(seed, identity, camera, shot, 2))
    vehicle = (
        silhouette(mesh, pixels, order, rows, columns) if with_vehicle_mask else np.zeros((0, 0), np.uint8)
    )
    return Layers(image, vehicle, occluder, pixel_box)


def render_layers(
    seed: int,
    identity: int,
    camera: int,
    shot: int,
    *,
    size: int | tuple[int, int],
    occlusion: str = "light",
    cameras: CameraStyle = SURVEILLANCE,
) -> Layers:
    """Does what `render` does, and returns the masks too."""
    return _draw(seed, identity, camera, shot, size, occlusion, cameras, with_vehicle_mask=True)


def render(
    seed: int,
    identity: int,
    camera: int,
    shot: int,
    *,
    size: int | tuple[int, int],
    occlusion: str = "light",
    cameras: CameraStyle = SURVEILLANCE,
) -> np.ndarray:
    """Renders one picture, a pure function of its arguments.

    Args:
        seed: Of the world: another seed gives other vehicles and cameras.
        identity: Which vehicle; see `identity.describe`.
        camera: Which camera.
        shot: Which passage before that camera.
        size: Side in pixels, or (height, width).
        occlusion: "none", "light" or "heavy"; see `occluders`.
        cameras: The range the cameras are drawn from.

    Returns:
        (H, W, 3) uint8 RGB: a crop round the vehicle's box.

    Raises:
        ValueError: On an unknown occlusion level or a size under 16 pixels.
    """
    return _draw(seed, identity, camera, shot, size, occlusion, cameras, with_vehicle_mask=False).image
