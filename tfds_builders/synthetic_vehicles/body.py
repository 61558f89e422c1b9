"""A body type as polygons: lower body, cabin, glass, lamps, wheel arches, and patches for marks to lie on."""

import dataclasses
import functools
import itertools

import numpy as np

from tfds_builders.synthetic_vehicles.cargo import add_bed, add_cargo_box
from tfds_builders.synthetic_vehicles.mesh import Material, Mesh, MeshBuilder, Part, Patch
from tfds_builders.synthetic_vehicles.shapes import SHAPES, Shape

RGB = tuple[float, float, float]

_PAINT: RGB = (200.0, 200.0, 200.0)  # replaced by the identity's paint
_RUBBER: RGB = (26.0, 26.0, 28.0)
_DARK: RGB = (32.0, 33.0, 36.0)
_TRIM: RGB = (58.0, 59.0, 62.0)
_GLASS: RGB = (30.0, 38.0, 46.0)
_HEADLIGHT: RGB = (242.0, 244.0, 236.0)
_TAIL_LIGHT: RGB = (196.0, 18.0, 22.0)
_INDICATOR: RGB = (238.0, 140.0, 30.0)
_PLATE: RGB = (214.0, 216.0, 222.0)

# Cross-section of the lower body: (share of the half width, share of the height), sill to centre line.
_SECTION = np.array([(0.93, 0.0), (1.0, 0.26), (1.0, 0.60), (0.965, 0.86), (0.86, 0.985), (0.0, 1.02)])
# Rounding of both ends: distance from the end in metres, share of the half width kept there.
_END_ROUNDING = ((0.0, 0.80), (0.10, 0.92), (0.34, 0.985), (0.75, 1.0))


@dataclasses.dataclass(frozen=True)
class Body:
    """A body type ready to take an identity's paint and marks.

    Attributes:
        shape: Its measures.
        mesh: Everything that all vehicles of this type share.
        patches: Named pieces of surface: left, right, nose, tail, bonnet, windscreen, rear_window, roof,
            left_glass, right_glass; where the type has them also box_left, box_right, box_rear, box_roof.
    """

    shape: Shape
    mesh: Mesh
    patches: dict[str, Patch]


def _interpolate(xs: np.ndarray, points: tuple[tuple[float, float], ...]) -> np.ndarray:
    table = np.array(points)
    return np.interp(xs, table[:, 0], table[:, 1])


def _add_tub(builder: MeshBuilder, shape: Shape) -> None:
    """The lower body: cross-sections along x, joined by quadrilaterals."""
    rear, front = shape.tub
    rounding = _END_ROUNDING if front - rear > 3 else _END_ROUNDING[:3]
    ends = [offset for offset, _ in rounding]
    inner = np.linspace(rear + ends[-1], front - ends[-1], 6)[1:-1]
    xs = np.concatenate([[rear + e for e in ends], inner, [front - e for e in reversed(ends)]])
    keep = np.array(
        [share for _, share in rounding] + [1.0] * len(inner) + [s for _, s in reversed(rounding)]
    )
    tops = _interpolate(xs, shape.topline)
    drop = np.interp(front - xs, [0.0, 0.34], [shape.nose_drop, 0.0])
    tops = tops - drop * (tops - shape.clearance)
    half = shape.width / 2
    sections = []
    for x, share, top in zip(xs, keep, tops, strict=True):
        low = shape.clearance + (0.06 if share < 0.9 else 0.0)
        y = _SECTION[:, 0] * half * share
        z = low + _SECTION[:, 1] * (top - low)
        left = np.stack([np.full_like(y, x), y, z], axis=1)
        right = left[-2::-1] * np.array([1, -1, 1])
        sections.append(np.concatenate([left, right]))
    centre = np.array([0.0, 0.0, (shape.clearance + shape.belt) / 2])
    for a, b in itertools.pairwise(sections):
        for j in range(len(a) - 1):
            quad = np.array([a[j], a[j + 1], b[j + 1], b[j]])
            outward = quad.mean(axis=0) - centre
            outward[0] *= 0.2
            builder.add(quad, tuple(outward), _PAINT, Part.TUB, 0, Material.PAINT)
            if j in (0, len(a) - 2):  # the sill is dark plastic
                sill = quad.copy()
                upper = [1, 2] if j == 0 else [0, 3]
                lower = [0, 3] if j == 0 else [1, 2]
                sill[upper] = sill[lower] + 0.45 * (quad[upper] - quad[lower])
                builder.add(sill, tuple(outward), _TRIM, Part.TUB, 1)
    builder.add(sections[0], (-1, 0, 0), _PAINT, Part.TUB, 0, Material.PAINT)
    builder.add(sections[-1], (1, 0, 0), _PAINT, Part.TUB, 0, Material.PAINT)


def _cabin_ring(rear: float, front: float, half: float, z: float, chamfer: float) -> np.ndarray:
    """Eight points of a rectangle with cut corners, from front left counter-clockwise seen from above."""
    return np.array(
        [
            (front, half - 1.6 * chamfer, z),
            (front - chamfer, half, z),
            (rear + chamfer, half, z),
            (rear, half - 1.6 * chamfer, z),
            (rear, -half + 1.6 * chamfer, z),
            (rear + chamfer, -half, z),
            (front - chamfer, -half, z),
            (front, -half + 1.6 * chamfer, z),
        ]
    )


def _add_cabin(builder: MeshBuilder, shape: Shape, patches: dict[str, Patch]) -> None:
    """Pillars, roof and glass; registers the glass and roof patches."""
    half = 0.94 * shape.width / 2
    top_half = half * shape.roof_width
    (r0, f0), (r1, f1) = shape.cabin_base, shape.cabin_top
    edge = 0.07 if shape.roof < 2 else 0.10
    base = _cabin_ring(r0, f0, half, shape.belt - 0.03, 0.07)
    top = _cabin_ring(r1, f1, top_half, shape.roof - edge, 0.09)
    roof = _cabin_ring(r1 + 1.3 * edge, f1 - 1.3 * edge, top_half - 1.3 * edge, shape.roof, 0.09)
    centre = base.mean(axis=0)
    for lower, upper in ((base, top), (top, roof)):
        for i in range(8):
            j = (i + 1) % 8
            quad = np.array([lower[i], lower[j], upper[j], upper[i]])
            outward = quad.mean(axis=0) - centre
            builder.add(quad, tuple(outward), _PAINT, Part.CABIN, 0, Material.PAINT)
    builder.add(roof, (0, 0, 1), _PAINT, Part.CABIN, 0, Material.PAINT)

    def patch(a: int, b: int, outward: tuple[float, float, float]) -> Patch:
        return Patch(np.array([[base[a], base[b]], [top[a], top[b]]]), outward, Part.CABIN)

    patches["windscreen"] = patch(7, 0, (1, 0, 0.2))
    patches["rear_window"] = patch(3, 4, (-1, 0, 0.2))
    patches["left_glass"] = patch(1, 2, (0, 1, 0.2))
    patches["right_glass"] = patch(5, 6, (0, -1, 0.2))
    patches["roof"] = Patch(np.array([[roof[3], roof[4]], [roof[0], roof[7]]]), (0, 0, 1), Part.CABIN)

    screen = patches["windscreen"]
    glass = Material.GLASS
    builder.add(screen.rectangle(-0.01, 1.01, 0.05, 0.95), screen.outward, _GLASS, Part.CABIN, 1, glass)
    shine = screen.at(np.array([(0.62, 0.05), (0.74, 0.05), (0.93, 0.95), (0.76, 0.95)]))
    builder.add(shine, screen.outward, (62, 72, 82), Part.CABIN, 2, glass)
    if shape.rear_window:
        back = patches["rear_window"]
        v0, v1 = (0.16, 0.88) if shape.cargo_box is None else (0.2, 0.8)
        builder.add(back.rectangle(0.03, 0.97, v0, v1), back.outward, _GLASS, Part.CABIN, 1, glass)
    v0, v1 = shape.window_sill
    for name in ("left_glass", "right_glass"):
        side = patches[name]
        for begin, end in shape.side_windows:
            u0, u1 = (begin, end) if name == "left_glass" else (1 - end, 1 - begin)
            builder.add(side.rectangle(u0, u1, v0, v1), side.outward, _GLASS, Part.CABIN, 1, glass)


def _add_lamps(builder: MeshBuilder, shape: Shape, *, front: bool) -> None:
    """Head or tail lights that wrap round the corner: one face forwards, two round the rounded end."""
    x_end = shape.tub[1] if front else (shape.tub[0] if shape.cargo_box is None else shape.cargo_box[0])
    direction = 1.0 if front else -1.0
    half = shape.width / 2
    z0, z1 = shape.lamp_z if front else shape.tail_z
    inner = 0.46 if front else shape.tail_inner
    outline = [(0.01, inner), (0.01, 0.80), (-0.10, 0.93), (-0.30, 0.985)]
    if not front and shape.cargo_box is not None:
        outline = [(0.01, inner), (0.01, 0.97)]
    if inner >= 0.80:
        outline = [(0.01, 0.70), (0.01, 0.80), (-0.10, 0.93), (-0.22, 0.975)]
    for side in (1.0, -1.0):
        for k, ((dx0, s0), (dx1, s1)) in enumerate(itertools.pairwise(outline)):
            xa, xb = x_end + direction * dx0, x_end + direction * dx1
            ya, yb = side * s0 * half, side * s1 * half
            shrink = (0.10 if k == 0 else 0.22 if k == 2 else 0.0) * (z1 - z0)
            quad = np.array([(xa, ya, z0), (xb, yb, z0 + shrink), (xb, yb, z1), (xa, ya, z1)])
            color = _HEADLIGHT if front else _TAIL_LIGHT
            if k == 2:
                color = _INDICATOR if front else _TAIL_LIGHT
            outward = (direction, side * (0.1 if k == 0 else 1.0), 0.0)
            builder.add(quad, outward, color, Part.TUB, 2, Material.LAMP)
            if k == 0 and not front:  # reversing light
                mid = quad.copy()
                mid[:, 2] = np.where(mid[:, 2] > (z0 + z1) / 2, (z0 + z1) / 2, z0 + 0.2 * (z1 - z0))
                mid[:, 1] = ya + (mid[:, 1] - ya) * 0.6
                builder.add(mid, outward, (226, 214, 208), Part.TUB, 3, Material.LAMP)


def _add_ends(builder: MeshBuilder, shape: Shape, patches: dict[str, Patch]) -> None:
    """Grille, bumpers, number plates at the nose and tail."""
    nose, tail = patches["nose"], patches["tail"]
    low, high = shape.lamp_z
    bottom, top = float(nose.corners[0, 0, 2]), float(nose.corners[1, 0, 2])

    def level(z: float) -> float:
        return (z - bottom) / (top - bottom)

    grille_low, grille_high = level(low + 0.02), level(high - 0.02)
    builder.add(nose.rectangle(0.26, 0.74, grille_low, grille_high), nose.outward, _DARK, Part.TUB, 1)
    middle = (grille_low + grille_high) / 2
    chrome = nose.rectangle(0.27, 0.73, middle - 0.02, middle + 0.02)
    builder.add(chrome, nose.outward, (170, 172, 176), Part.TUB, 2)
    builder.add(nose.rectangle(0.12, 0.88, 0.03, 0.22), nose.outward, _DARK, Part.TUB, 1)
    builder.add(tail.rectangle(0.04, 0.96, 0.0, 0.2), tail.outward, _TRIM, Part.TUB, 1)
    for patch, v0 in ((nose, 0.25), (tail, 0.42 if shape.cargo_box is None else 0.25)):
        half_u, height = 0.23 / patch.width, 0.13 / patch.height
        plate = patch.rectangle(0.5 - half_u, 0.5 + half_u, v0, v0 + height)
        builder.add(plate, patch.outward, _PLATE, Part.TUB, 3)
        for k in range(4):  # strokes without meaning
            u = 0.5 + half_u * (-0.72 + 0.42 * k)
            stroke = patch.rectangle(u, u + 0.2 * half_u, v0 + 0.2 * height, v0 + 0.8 * height)
            builder.add(stroke, patch.outward, (70, 74, 88), Part.TUB, 4)


def _disk(x: float, y: float, z: float, radius: float, corners: int) -> np.ndarray:
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([x + radius * np.cos(angles), np.full(corners, y), z + radius * np.sin(angles)], axis=1)


def _add_wheels(builder: MeshBuilder, shape: Shape) -> None:
    """Tyres and wheel arches; the hubs come with the identity."""
    half = shape.width / 2
    radius = shape.wheel_radius
    for x in shape.wheel_x:
        for side in (1.0, -1.0):
            y_out, y_in = side * (half - 0.01), side * (half - 0.27)
            outer, inner = _disk(x, y_out, radius, radius, 12), _disk(x, y_in, radius, radius, 12)
            for i in range(12):
                j = (i + 1) % 12
                quad = np.array([outer[i], outer[j], inner[j], inner[i]])
                middle = quad.mean(axis=0)
                outward = (float(middle[0] - x), 0.0, float(middle[2] - radius))
                builder.add(quad, outward, _RUBBER, Part.UNDERBODY, 0)
            in_box = shape.cargo_box is not None and x < shape.cargo_box[1]
            part = Part.UNDERBODY if in_box else Part.TUB
            if not in_box:
                arch = _disk(x, side * half, radius, 1.17 * radius, 18)
                arch[:, 2] = np.maximum(arch[:, 2], shape.clearance)
                builder.add(arch, (0, side, 0), (18, 18, 20), part, 3)
            builder.add(_disk(x, side * half, radius, radius, 18), (0, side, 0), _RUBBER, part, 4)


def _add_seams(builder: MeshBuilder, shape: Shape, patches: dict[str, Patch]) -> None:
    """Door gaps and handles on the sides."""
    for name in ("left", "right"):
        side = patches[name]
        for begin, end in (*shape.side_windows[:3],):
            for edge in (begin, end):
                x = shape.cabin_base[1] - edge * (shape.cabin_base[1] - shape.cabin_base[0])
                u = (side.corners[0, 0, 0] - x) / (side.corners[0, 0, 0] - side.corners[0, 1, 0])
                seam = 0.012 / side.width
                builder.add(
                    side.rectangle(u - seam, u + seam, 0.16, 0.97),
                    side.outward,
                    _PAINT,
                    side.part,
                    1,
                    Material.SEAM,
                )
            x = shape.cabin_base[1] - (end - 0.03) * (shape.cabin_base[1] - shape.cabin_base[0])
            u = (side.corners[0, 0, 0] - x) / (side.corners[0, 0, 0] - side.corners[0, 1, 0])
            reach = 0.10 / side.width * (1 if name == "left" else -1)
            handle = side.rectangle(u - reach, u, 0.77, 0.83)
            builder.add(handle, side.outward, _PAINT, side.part, 2, Material.SEAM)


def _tub_patches(shape: Shape) -> dict[str, Patch]:
    """The sides, ends and bonnet of the lower body."""
    rear, front = shape.tub
    half = shape.width / 2
    low = shape.clearance
    side_rear, side_front = rear + 0.2, front - 0.2
    belt = shape.belt - 0.02
    drop = shape.nose_drop * (shape.topline[-1][1] - low)
    nose_top = shape.topline[-1][1] - drop
    tail_top = shape.topline[0][1]
    tail_x, tail_low = rear, low + 0.06
    if shape.cargo_box is not None:
        tail_x, tail_low, tail_top = shape.cargo_box[0] - 0.01, 0.6, 0.97
    patches = {
        "left": Patch(
            np.array([[(side_front, half, low), (side_rear, half, low)],
                      [(side_front, half, belt), (side_rear, half, belt)]]), (0, 1, 0), Part.TUB),
        "right": Patch(
            np.array([[(side_rear, -half, low), (side_front, -half, low)],
                      [(side_rear, -half, belt), (side_front, -half, belt)]]), (0, -1, 0), Part.TUB),
        "nose": Patch(
            np.array([[(front, -0.8 * half, low + 0.06), (front, 0.8 * half, low + 0.06)],
                      [(front, -0.78 * half, nose_top), (front, 0.78 * half, nose_top)]]),
            (1, 0, 0), Part.TUB),
        "tail": Patch(
            np.array([[(tail_x, 0.8 * half, tail_low), (tail_x, -0.8 * half, tail_low)],
                      [(tail_x, 0.78 * half, tail_top), (tail_x, -0.78 * half, tail_top)]]),
            (-1, 0, 0), Part.TUB if shape.cargo_box is None else Part.UNDERBODY),
    }  # fmt: skip
    bonnet_rear = shape.cabin_base[1] + 0.04
    if front - bonnet_rear > 0.5:
        z_rear = float(_interpolate(np.array([bonnet_rear]), shape.topline)[0]) + 0.01
        x_front = front - 0.30
        z_front = float(_interpolate(np.array([x_front]), shape.topline)[0]) + 0.005
        patches["bonnet"] = Patch(
            np.array([[(x_front, -0.72 * half, z_front), (x_front, 0.72 * half, z_front)],
                      [(bonnet_rear, -0.80 * half, z_rear), (bonnet_rear, 0.80 * half, z_rear)]]),
            (0.2, 0, 1), Part.TUB)  # fmt: skip
    return patches


@functools.cache
def build_body(body_type: str) -> Body:
    """Builds the mesh and patches of a body type.

    Args:
        body_type: One of `shapes.BODY_TYPES`.

    Returns:
        The body, with placeholder paint.
    """
    shape = SHAPES[body_type]
    builder = MeshBuilder()
    patches = _tub_patches(shape)
    _add_tub(builder, shape)
    _add_cabin(builder, shape, patches)
    _add_ends(builder, shape, patches)
    _add_wheels(builder, shape)
    _add_seams(builder, shape, patches)
    _add_lamps(builder, shape, front=True)
    _add_lamps(builder, shape, front=False)
    if shape.cargo_box is not None:
        add_cargo_box(builder, shape, patches)
    if shape.bed is not None:
        add_bed(builder, shape, patches)
    z = shape.belt + 0.02
    x = shape.cabin_base[1] - 0.30
    for part, side in ((Part.LEFT_MIRROR, 1.0), (Part.RIGHT_MIRROR, -1.0)):
        y0, y1 = sorted((side * 0.84 * shape.width / 2, side * (shape.width / 2 + 0.13)))
        builder.add_box((x - 0.07, y0, z), (x + 0.05, y1, z + 0.15), _PAINT, part, 0, Material.SEAM)
    return Body(shape, builder.build(), patches)
