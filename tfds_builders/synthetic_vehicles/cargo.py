"""Where load goes: a truck's closed box and a pickup's open bed."""

import numpy as np

from tfds_builders.synthetic_vehicles.mesh import Material, MeshBuilder, Part, Patch
from tfds_builders.synthetic_vehicles.shapes import Shape

RGB = tuple[float, float, float]

_PAINT: RGB = (200.0, 200.0, 200.0)  # replaced by the identity's paint
_DARK: RGB = (32.0, 33.0, 36.0)
_TRIM: RGB = (58.0, 59.0, 62.0)


def add_cargo_box(builder: MeshBuilder, shape: Shape, patches: dict[str, Patch]) -> None:
    """Adds a truck's box with rounded upper edges on a dark frame, and its patches."""
    assert shape.cargo_box is not None
    x0, x1, z0, z1 = shape.cargo_box
    half = shape.width / 2 + 0.04
    builder.add_box((x0 + 0.05, -0.6, 0.5), (x1 + 0.3, 0.6, z0), _DARK, Part.UNDERBODY, 1)
    builder.add_box((x0, -half, 0.62), (x0 + 0.1, half, 0.95), _TRIM, Part.UNDERBODY, 2)
    edge = 0.07
    builder.add_box((x0, -half, z0), (x1, half, z1 - edge), _PAINT, Part.BOX, 0, Material.PAINT)
    builder.add_box(
        (x0 + edge, -half + edge, z1 - edge),
        (x1 - edge, half - edge, z1),
        _PAINT,
        Part.BOX,
        0,
        Material.PAINT,
    )
    for side in (1.0, -1.0):
        slope = np.array(
            [(x0, side * half, z1 - edge), (x1, side * half, z1 - edge),
             (x1 - edge, side * (half - edge), z1), (x0 + edge, side * (half - edge), z1)]
        )  # fmt: skip
        builder.add(slope, (0, side, 1), _PAINT, Part.BOX, 0, Material.PAINT)
    for x, direction in ((x0, -1.0), (x1, 1.0)):
        slope = np.array(
            [(x, -half, z1 - edge), (x, half, z1 - edge),
             (x - direction * edge, half - edge, z1), (x - direction * edge, -half + edge, z1)]
        )  # fmt: skip
        builder.add(slope, (direction, 0, 1), _PAINT, Part.BOX, 0, Material.PAINT)
    patches["box_left"] = Patch(
        np.array([[(x1, half, z0), (x0, half, z0)], [(x1, half, z1 - edge), (x0, half, z1 - edge)]]),
        (0, 1, 0), Part.BOX,
    )  # fmt: skip
    patches["box_right"] = Patch(
        np.array([[(x0, -half, z0), (x1, -half, z0)], [(x0, -half, z1 - edge), (x1, -half, z1 - edge)]]),
        (0, -1, 0), Part.BOX,
    )  # fmt: skip
    patches["box_rear"] = Patch(
        np.array([[(x0, half, z0), (x0, -half, z0)], [(x0, half, z1 - edge), (x0, -half, z1 - edge)]]),
        (-1, 0, 0), Part.BOX,
    )  # fmt: skip
    patches["box_roof"] = Patch(
        np.array([[(x0, half, z1), (x0, -half, z1)], [(x1, half, z1), (x1, -half, z1)]]), (0, 0, 1), Part.BOX
    )
    seam = patches["box_rear"].rectangle(0.49, 0.51, 0.02, 0.98)
    builder.add(seam, (-1, 0, 0), _PAINT, Part.BOX, 1, Material.SEAM)
    for name in ("box_left", "box_right", "box_rear"):
        rail = patches[name].rectangle(0.0, 1.0, 0.0, 0.05)
        builder.add(rail, patches[name].outward, (120, 122, 126), Part.BOX, 1)


def add_bed(builder: MeshBuilder, shape: Shape, patches: dict[str, Patch]) -> None:
    """Adds a pickup's open bed as a dark recess in the lower body's deck, and its patch."""
    assert shape.bed is not None
    rear, front = shape.bed
    half, z = 0.78 * shape.width / 2, shape.belt + 0.02
    opening = np.array([(rear, -half, z), (rear, half, z), (front, half, z), (front, -half, z)])
    builder.add(opening, (0, 0, 1), (28, 28, 30), Part.TUB, 1)
    floor = opening * np.array([1, 0.82, 1]) + np.array([0.08, 0, 0])
    builder.add(floor, (0, 0, 1), (54, 54, 56), Part.TUB, 2)
    patches["bed"] = Patch(
        np.array([[opening[1], opening[0]], [opening[2], opening[3]]]), (0, 0, 1), Part.TUB
    )
