"""Properties of the synthetic vehicles' renderer."""

import collections
import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfds_builders.synthetic_vehicles.body import build_body
from tfds_builders.synthetic_vehicles.camera import (
    LOW_RESOLUTION,
    SURVEILLANCE,
    CameraStyle,
    View,
    aim,
    make_camera,
)
from tfds_builders.synthetic_vehicles.identity import PAINTS, describe
from tfds_builders.synthetic_vehicles.marks import add_marks
from tfds_builders.synthetic_vehicles.mesh import MeshBuilder, Part
from tfds_builders.synthetic_vehicles.occluders import OCCLUSION_LEVELS
from tfds_builders.synthetic_vehicles.raster import paint_mesh_on, painting_order, to_pixels
from tfds_builders.synthetic_vehicles.render import box_aspect, render, render_layers
from tfds_builders.synthetic_vehicles.shapes import BODY_TYPES, SHAPES
from tfds_builders.synthetic_vehicles.vehicle import build_vehicle

_ROOT = Path(__file__).resolve().parents[2]
# (seed, identity, camera, shot)
_SHOTS = [(0, 3, 1, 0), (0, 3, 1, 1), (0, 3, 2, 0), (0, 4, 1, 0), (1, 3, 1, 0), (7, 100000, 119, 39)]


def _digests(order: list[int]) -> dict[int, str]:
    return {
        index: hashlib.sha256(render(*_SHOTS[index], size=48, occlusion="heavy").tobytes()).hexdigest()
        for index in order
    }


def _first_of_each_body() -> dict[str, int]:
    found: dict[str, int] = {}
    for identity in range(200):
        found.setdefault(describe(0, identity).body, identity)
    return found


def test_pictures_do_not_depend_on_process_or_order() -> None:
    here = _digests([0, 1, 2, 3, 4, 5])
    program = (
        "import hashlib\n"
        "from tfds_builders.synthetic_vehicles.render import render\n"
        f"for index, shot in reversed(list(enumerate({_SHOTS}))):\n"
        "    picture = render(*shot, size=48, occlusion='heavy')\n"
        "    print(index, hashlib.sha256(picture.tobytes()).hexdigest())\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout
    there = {int(line.split()[0]): line.split()[1] for line in output.splitlines()}
    assert there == here


def test_each_argument_changes_the_picture() -> None:
    assert len(set(_digests([0, 1, 2, 3, 4, 5]).values())) == len(_SHOTS)


def test_every_body_type_is_met_among_two_hundred_identities() -> None:
    assert set(_first_of_each_body()) == set(BODY_TYPES)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("body", BODY_TYPES)
def test_every_body_type_fills_its_picture_at_every_size(body: str, size: int) -> None:
    identity = _first_of_each_body()[body]
    for camera in range(6):
        layers = render_layers(0, identity, camera, 0, size=size, occlusion="none")
        assert layers.image.shape == (size, size, 3)
        assert layers.image.dtype == np.uint8
        assert layers.image.std() > 8
        x0, y0, x1, y1 = layers.box
        rows, columns = layers.vehicle.shape
        # The crop follows the vehicle: its box reaches nearly from edge to edge one way ...
        assert max((x1 - x0) / columns, (y1 - y0) / rows) > 0.8
        # ... the vehicle touches the box's sides, fills much of it, and nothing lies outside.
        inside = layers.vehicle[y0:y1, x0:x1]
        assert 0.45 < inside.mean() < 0.95
        assert layers.vehicle.sum() - inside.sum() <= 0.03 * layers.vehicle.sum()


def test_pose_does_not_depend_on_size() -> None:
    small = render_layers(0, 5, 3, 2, size=64, occlusion="none")
    large = render_layers(0, 5, 3, 2, size=256, occlusion="none")
    np.testing.assert_allclose(small.box / 128, large.box / 512, atol=1.5 / 128)


def test_rectangular_pictures_and_box_aspect() -> None:
    assert render(0, 1, 1, 0, size=(40, 90)).shape == (40, 90, 3)
    x0, y0, x1, y1 = render_layers(0, 1, 1, 0, size=256, occlusion="none").box
    assert box_aspect(0, 1, 1, 0) == pytest.approx((x1 - x0) / (y1 - y0), rel=0.02)


@pytest.mark.parametrize("level", ["none", "light", "heavy"])
@pytest.mark.parametrize("size", [48, 128])
def test_occluders_cover_their_levels_share_of_the_box(level: str, size: int) -> None:
    low, high = OCCLUSION_LEVELS[level]
    shares = []
    for identity in range(30):
        for camera in range(3):
            layers = render_layers(2, identity, camera, 0, size=size, occlusion=level)
            x0, y0, x1, y1 = layers.box
            shares.append(float(layers.occluder[y0:y1, x0:x1].mean()))
    assert low <= min(shares)
    assert max(shares) <= high


def test_occlusion_leaves_the_rest_of_the_picture_alone() -> None:
    plain = render_layers(0, 8, 4, 0, size=64, occlusion="none")
    hidden = render_layers(0, 8, 4, 0, size=64, occlusion="heavy")
    np.testing.assert_array_equal(plain.vehicle, hidden.vehicle)
    far = hidden.occluder.reshape(64, 2, 64, 2).max(axis=(1, 3)) == 0
    far[1:-1, 1:-1] &= far[:-2, 1:-1] & far[2:, 1:-1] & far[1:-1, :-2] & far[1:-1, 2:]
    difference = np.abs(plain.image.astype(int) - hidden.image.astype(int)).max(axis=2)
    assert np.median(difference[far]) == 0


def test_identities_share_body_and_paint_but_never_all_marks() -> None:
    identities = [describe(0, identity) for identity in range(500)]
    groups = collections.Counter((identity.body, identity.color) for identity in identities)
    assert groups.most_common(1)[0][1] >= 25
    alone = sum(1 for count in groups.values() if count == 1)
    assert alone < 0.05 * len(identities)
    assert len({(i.body, i.color, i.hub, i.hub_color, i.marks) for i in identities}) == len(identities)
    assert {i.color for i in identities} == set(PAINTS)


def test_an_identity_keeps_its_marks_from_shot_to_shot() -> None:
    before = describe(0, 42)
    mesh = build_vehicle(0, 42)
    describe.cache_clear()
    build_vehicle.cache_clear()
    render(0, 42, 3, 1, size=32)
    assert describe(0, 42) == before
    np.testing.assert_array_equal(build_vehicle(0, 42).vertices, mesh.vertices)
    np.testing.assert_array_equal(build_vehicle(0, 42).colors, mesh.colors)


def _share_of_marks(identity: int, azimuth: float) -> float:
    """Share of an identity's visible pixels that its marks take (hubs not counted), seen from one side."""
    described = describe(0, identity)
    body = build_body(described.body)
    hubs_only = MeshBuilder()
    add_marks(hubs_only, body, dataclasses.replace(described, marks=()))
    unmarked = len(body.mesh.normals) + len(hubs_only.build().normals)
    mesh = build_vehicle(0, identity)
    camera = dataclasses.replace(make_camera(0, 0, SURVEILLANCE), azimuth=azimuth, elevation=18, distance=14)
    style = CameraStyle(azimuth_jitter=0)
    shape = body.shape
    view = aim(camera, style, shape.length, shape.height, np.random.default_rng(0))
    plane, _ = view.project(mesh.vertices)
    low, high = plane.min(axis=0), plane.max(axis=0)
    window = np.concatenate([low, low + (high - low).max()])
    order = painting_order(mesh, view, None if shape.cargo_box is None else shape.cargo_box[1])
    colors = np.where(order[:, None] >= unmarked, 255.0, 100.0) * np.ones((1, 3))
    canvas = np.zeros((256, 256, 3), np.uint8)
    paint_mesh_on(canvas, mesh, to_pixels(plane, window, 256), order, colors)
    return float((canvas[..., 0] == 255).sum() / (canvas[..., 0] > 0).sum())


@pytest.mark.parametrize("azimuth", [25.0, -30.0, 90.0, 155.0, -160.0])
def test_marks_are_seen_from_every_side_and_are_fine(azimuth: float) -> None:
    shares = np.array([_share_of_marks(identity, azimuth) for identity in range(80)])
    assert (shares > 0.004).mean() > 0.9  # at 128 px, 0.4 % of a vehicle is about 40 pixels
    assert np.median(shares) < 0.15


def test_cameras_are_functions_of_seed_and_index() -> None:
    first = make_camera(5, 17, LOW_RESOLUTION)
    make_camera.cache_clear()
    again = make_camera(5, 17, LOW_RESOLUTION)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert make_camera(5, 18, LOW_RESOLUTION).azimuth != first.azimuth
    assert make_camera(6, 17, LOW_RESOLUTION).azimuth != first.azimuth


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_dozen_cameras_see_fronts_and_rears(seed: int) -> None:
    azimuths = [make_camera(seed, camera, SURVEILLANCE).azimuth for camera in range(60)]
    ahead = np.cos(np.deg2rad(azimuths))
    for start in range(0, 49):
        dozen = ahead[start : start + 12]
        assert (dozen > 0.5).sum() >= 3
        assert (dozen < -0.5).sum() >= 3


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 180.0, -60.0])
def test_projection_is_that_of_a_camera_aimed_at_the_vehicle(azimuth: float) -> None:
    camera = dataclasses.replace(make_camera(0, 0, SURVEILLANCE), azimuth=azimuth)
    shape = SHAPES["sedan"]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        view = aim(camera, SURVEILLANCE, shape.length, shape.height, rng)
        np.testing.assert_allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(view.axes), 1, atol=1e-5)
        target = np.array([[0, 0, 0.45 * shape.height]], np.float32)
        plane, depth = view.project(target)
        np.testing.assert_allclose(plane, 0, atol=1e-5)
        np.testing.assert_allclose(depth, np.linalg.norm(target[0] - view.position), rtol=1e-5)
        above, _ = view.project(target + np.array([[0, 0, 0.5]], np.float32))
        assert above[0, 1] < 0  # up in the world is up in the picture
        # Facing the front, a vehicle's left is on the right; from behind it is on the left.
        left, _ = view.project(target + np.array([[0, 0.5, 0]], np.float32))
        if abs(np.cos(np.deg2rad(azimuth))) > 0.9:
            assert np.sign(left[0, 0]) == np.sign(np.cos(np.deg2rad(azimuth)))


def test_nearer_parts_look_larger() -> None:
    view = View(np.array([10, 0, 0], np.float32), np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]], np.float32))
    near, _ = view.project(np.array([[2, 0, 0], [2, 1, 0]], np.float32))
    far, _ = view.project(np.array([[-2, 0, 0], [-2, 1, 0]], np.float32))
    # At 8 and at 12 metres: sizes go as one over the distance.
    assert abs(near[1, 0] - near[0, 0]) == pytest.approx(1 / 8)
    assert abs(far[1, 0] - far[0, 0]) == pytest.approx(1 / 12)


@pytest.mark.parametrize("body", BODY_TYPES)
def test_bodies_have_their_measures_and_outward_normals(body: str) -> None:
    built = build_body(body)
    shape, mesh = built.shape, built.mesh
    extent = mesh.vertices.max(axis=0) - mesh.vertices.min(axis=0)
    assert extent[0] == pytest.approx(shape.length, abs=0.15)
    assert shape.width <= extent[1] <= shape.width + 0.4  # the mirrors stand out
    assert mesh.vertices[:, 2].max() == pytest.approx(shape.height, abs=0.05)
    assert mesh.vertices[:, 2].min() == pytest.approx(0, abs=0.02)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-4)
    # Left and right halves mirror each other, so normals balance.
    tub = mesh.parts == Part.TUB
    assert abs(float(mesh.normals[tub, 1].sum())) < 1e-2


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="'medium'; expected one of none, light, heavy"):
        render(0, 0, 0, 0, size=64, occlusion="medium")
    with pytest.raises(ValueError, match=r"size is 8; .* at least 16"):
        render(0, 0, 0, 0, size=8)
