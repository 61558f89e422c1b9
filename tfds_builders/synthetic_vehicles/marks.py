"""Draws an identity's fine marks on its body, in 3-D, so that they move with the viewpoint."""

import numpy as np

from tfds_builders.synthetic_vehicles.body import Body
from tfds_builders.synthetic_vehicles.identity import MARK_COLORS, RGB, Identity, Mark
from tfds_builders.synthetic_vehicles.mesh import Material, MeshBuilder, Part, Patch

_BLACK: RGB = (24.0, 24.0, 26.0)
_METAL: RGB = (168.0, 170.0, 174.0)
_RUBBER: RGB = (34.0, 34.0, 36.0)

_ANGLES = np.arange(12) * (2 * np.pi / 12)
# Outlines in a unit square centred on 0.
_OUTLINES: dict[str, np.ndarray] = {
    "circle": 0.5 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1),
    "ring": 0.5 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1),
    "diamond": np.array([(0.0, -0.6), (0.6, 0.0), (0.0, 0.6), (-0.6, 0.0)]),
    "triangle": np.array([(-0.55, -0.45), (0.55, -0.45), (0.0, 0.55)]),
    "bar": np.array([(-0.75, -0.2), (0.75, -0.2), (0.75, 0.2), (-0.75, 0.2)]),
    "square": np.array([(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)]),
}


def _lay(
    builder: MeshBuilder,
    patch: Patch,
    uv: np.ndarray,
    color: RGB,
    layer: int,
    material: Material = Material.MATTE,
) -> None:
    builder.add(patch.at(uv), patch.outward, color, patch.part, layer, material)


def _rectangle(u0: float, u1: float, v0: float, v1: float) -> np.ndarray:
    return np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])


def _emblem(builder: MeshBuilder, patch: Patch, mark: Mark, u: float, v: float, metres: float) -> None:
    """Draws an emblem about `metres` across with its centre at (u, v), kept inside the patch."""
    scale = np.array([metres / patch.width, metres / patch.height])
    margin = np.minimum(0.6 * scale, 0.5)
    centre = np.clip(np.array([u, v]), margin, 1 - margin)
    color, accent = MARK_COLORS[mark.color], MARK_COLORS[mark.accent]
    if mark.shape == "cross":
        _lay(builder, patch, centre + scale * _rectangle(-0.55, 0.55, -0.18, 0.18), color, 7)
        _lay(builder, patch, centre + scale * _rectangle(-0.18, 0.18, -0.55, 0.55), color, 7)
        return
    outline = _OUTLINES[mark.shape]
    _lay(builder, patch, centre + scale * outline, color, 7)
    if mark.shape in ("ring", "square", "diamond"):
        _lay(builder, patch, centre + 0.5 * scale * outline, accent, 8)


def _sticker(builder: MeshBuilder, patch: Patch, mark: Mark, metres: float, *, high: bool) -> None:
    """A sticker on glass, in one of the places where people put them."""
    width, height = metres / patch.width, metres / patch.height
    if mark.shape == "wide":
        width *= 1.9
    u = 0.07 + width / 2 + (0.86 - width) * mark.place[0]
    v = (0.62 + 0.2 * mark.place[1]) if high else (0.26 + 0.46 * mark.place[1])
    outline = _OUTLINES["circle"] if mark.shape == "round" else _OUTLINES["square"] * 1.1
    scale = np.array([width, height])
    _lay(builder, patch, np.array([u, v]) + scale * outline, MARK_COLORS[mark.color], 7)
    if mark.size > 0.5:
        _lay(builder, patch, np.array([u, v]) + 0.45 * scale * outline, MARK_COLORS[mark.accent], 8)


def _sides(body: Body, *, box: bool) -> tuple[Patch, Patch]:
    if box and "box_left" in body.patches:
        return body.patches["box_left"], body.patches["box_right"]
    return body.patches["left"], body.patches["right"]


def _mirrored(uv: np.ndarray, *, right: bool) -> np.ndarray:
    """Keeps the distance from the front equal on both sides: u runs rearwards on the left only."""
    return np.stack([1 - uv[:, 0], uv[:, 1]], axis=1) if right else uv


def _side_stripe(builder: MeshBuilder, body: Body, mark: Mark) -> None:
    color = MARK_COLORS[mark.color]
    for index, patch in enumerate(_sides(body, box=True)):
        thick = (0.09 + 0.09 * mark.size) * (1.6 if patch.height > 1.5 else 1.0) / patch.height
        v = 0.34 + 0.34 * mark.place[1]
        right = index == 1
        if mark.shape == "wedge":
            pieces = [np.array([(0.0, v), (1.0, v - thick), (1.0, v + 1.6 * thick)])]
        elif mark.shape == "double":
            pieces = [
                _rectangle(0.0, 1.0, v, v + 0.6 * thick),
                _rectangle(0.0, 1.0, v + 1.1 * thick, v + 1.7 * thick),
            ]
        elif mark.shape == "broken":
            edges = np.linspace(0.0, 1.0, 6)
            pieces = [_rectangle(a, a + 0.11, v, v + thick) for a in edges[:-1]]
        else:
            pieces = [_rectangle(0.0, 1.0, v, v + thick)]
        for piece in pieces:
            _lay(builder, patch, _mirrored(piece, right=right), color, 2)


def _lettering(builder: MeshBuilder, body: Body, mark: Mark) -> None:
    """Blocks in the rhythm of words: `size` and `place` choose their lengths."""
    rng = np.random.Generator(np.random.PCG64([int(1e6 * mark.size), int(1e6 * mark.place[0])]))
    lengths = rng.uniform(0.5, 1.6, size=5)
    gaps = rng.uniform(0.25, 0.5, size=5)
    surfaces = [*_sides(body, box=True)]
    if "box_rear" in body.patches:
        surfaces.append(body.patches["box_rear"])
    for patch in surfaces:
        tall = patch.height > 1.5
        letter = (0.34 if tall else 0.17) / patch.height
        unit = max(0.42 if tall else 0.17, 0.05 * patch.width) / patch.width
        lines = 2 if mark.shape == "two lines" else 1
        for line in range(lines):
            v = (0.62 if tall else 0.60) - line * 1.6 * letter + 0.12 * (mark.place[1] - 0.5)
            u = 0.16 + 0.12 * mark.place[0]
            for length, gap in zip(lengths, gaps, strict=True):
                if u + length * unit > 0.94:
                    break
                block = _rectangle(u, u + length * unit, v, v + letter)
                color = MARK_COLORS[mark.color if line == 0 else mark.accent]
                _lay(builder, patch, block, color, 6)
                u += (length + gap) * unit


def _centre_stripes(builder: MeshBuilder, body: Body, mark: Mark) -> None:
    spans = {"single": [(0.40, 0.60)], "double": [(0.33, 0.45), (0.55, 0.67)], "offset": [(0.20, 0.36)]}
    names = ["bonnet", "roof", "tail", "box_roof"]
    if "bonnet" not in body.patches:
        names.append("nose")
    for name in names:
        patch = body.patches.get(name)
        if patch is None or (name == "tail" and body.shape.cargo_box is not None):
            continue
        for u0, u1 in spans[mark.shape]:
            if name in ("bonnet", "nose"):  # u runs the other way when seen from the front
                u0, u1 = 1 - u1, 1 - u0
            v0, v1 = (0.5, 1.0) if name in ("tail", "nose") else (0.0, 1.0)
            _lay(builder, patch, _rectangle(u0, u1, v0, v1), MARK_COLORS[mark.color], 2)


def _roof_mark(builder: MeshBuilder, body: Body, mark: Mark) -> None:
    """Whatever stands or lies on the roof (for a truck, on its cab and box)."""
    patch = body.patches["roof"]
    corners = patch.corners.reshape(-1, 3)
    x0, x1 = float(corners[:, 0].min()), float(corners[:, 0].max())
    half, z = float(corners[:, 1].max()), float(corners[0, 2])
    length = x1 - x0
    thick = 0.05 if length < 4 else 0.12  # visible on a bus, which is seen from farther away
    color = MARK_COLORS[mark.color]
    part = Part.ROOF
    if mark.kind == "roof crossbars":
        for share in np.linspace(0.2, 0.8, 2 + round(2 * mark.size)):
            x = x0 + share * length
            builder.add_box((x - thick, -half, z + 0.07), (x + thick, half, z + 0.13), color, part)
    elif mark.kind == "roof rails":
        for side in (-1.0, 1.0):
            y = side * 0.88 * half
            builder.add_box((x0 + 0.05, y - thick, z), (x1 - 0.05, y + thick, z + 0.13), color, part)
    elif mark.kind == "roof hatch":
        u, v = 0.3 + 0.4 * mark.place[0], 0.3 + 0.4 * mark.place[1]
        du, dv = 0.28, min(0.28, 0.5 / length)
        _lay(builder, patch, _rectangle(u - du, u + du, v - dv, v + dv), _BLACK, 5, Material.GLASS)
    elif mark.kind == "roof box":
        reach = min(0.45 * length, (0.5 + 0.5 * mark.size) * thick / 0.05)
        x, y = (x0 + x1) / 2, 0.5 * half * (mark.place[0] - 0.5)
        builder.add_box((x - reach, y - 0.36, z + 0.05), (x + reach, y + 0.36, z + 0.32), color, part)
    elif mark.kind == "roof lamp bar":
        x = x0 + length * (0.5 + 0.4 * mark.place[0])
        reach = half * (0.35 + 0.45 * mark.size)
        builder.add_box((x - 0.1, -reach, z), (x + 0.1, 0, z + 0.16), color, part, 0, Material.LAMP)
        accent = MARK_COLORS[mark.accent]
        builder.add_box((x - 0.1, 0, z), (x + 0.1, reach, z + 0.16), accent, part, 0, Material.LAMP)
    elif mark.kind == "roof panel":
        v0 = 0.6 * mark.place[1]
        _lay(builder, patch, _rectangle(0.03, 0.97, v0, v0 + 0.4), color, 4)
        if "box_roof" in body.patches:
            _lay(builder, body.patches["box_roof"], _rectangle(0.03, 0.97, v0, v0 + 0.4), color, 4)
    elif mark.kind == "roof fin":
        x, y = x0 + 0.15 * length, 0.7 * half * (2 * round(2 * mark.place[0]) / 2 - 1)
        builder.add_box((x - 3 * thick, y - thick, z), (x + 2 * thick, y + thick, z + 0.24), color, part)


def _dent(builder: MeshBuilder, body: Body, mark: Mark) -> None:
    """A dent: a crumpled hollow in shade, with a scraped edge; on one side only, and on the tail."""
    rng = np.random.Generator(np.random.PCG64([int(1e6 * mark.size), int(1e6 * mark.place[0])]))
    crumple = _OUTLINES["circle"] * rng.uniform(0.55, 1.25, size=(12, 1))
    side = _sides(body, box=False)[int(mark.place[0] > 0.5)]
    for patch, reach in ((side, 0.34 + 0.2 * mark.size), (body.patches["tail"], 0.22 + 0.1 * mark.size)):
        scale = np.array([1.5 * reach / patch.width, reach / patch.height])
        centre = np.array([0.3 + 0.4 * mark.place[1], 0.5])
        scrape = centre + np.array([0.08, -0.1]) * scale + scale * crumple
        _lay(builder, patch, scrape, (186.0, 184.0, 180.0), 3)
        _lay(builder, patch, centre + scale * crumple, (120.0, 120.0, 120.0), 4, Material.SEAM)


def _add_mark(builder: MeshBuilder, body: Body, mark: Mark) -> None:
    patches, shape = body.patches, body.shape
    color = MARK_COLORS[mark.color]
    large = 1.5 if shape.roof > 2.2 else 1.0
    nose, tail = patches["nose"], patches["tail"]
    rear_high = patches.get("box_rear", tail)
    match mark.kind:
        case "side stripe":
            _side_stripe(builder, body, mark)
        case "lettering":
            _lettering(builder, body, mark)
        case "centre stripes":
            _centre_stripes(builder, body, mark)
        case "dent":
            _dent(builder, body, mark)
        case "sun visor":
            depth = 0.12 + 0.1 * mark.size
            _lay(builder, patches["windscreen"], _rectangle(0.0, 1.0, 0.94 - depth, 0.95), color, 5)
        case "windscreen sticker":
            _sticker(builder, patches["windscreen"], mark, 0.17 * large, high=True)
        case "rear sticker":
            patch = patches.get("box_rear", patches["rear_window"])
            _sticker(builder, patch, mark, 0.22 * large, high=False)
        case "dashboard ornament":
            screen = patches["windscreen"]
            width = 0.22 * large / screen.width
            u = 0.12 + 0.7 * mark.place[0]
            height = 0.16 * large / screen.height
            _lay(builder, screen, _rectangle(u, u + width, 0.07, 0.07 + height), color, 6)
        case "bonnet emblem":
            _emblem(
                builder,
                patches["bonnet"],
                mark,
                mark.place[0],
                0.3 + 0.4 * mark.place[1],
                0.36 + 0.2 * mark.size,
            )
        case "nose emblem":
            if "bonnet" in patches:  # a van
                _emblem(builder, patches["bonnet"], mark, mark.place[0], 0.6, 0.36 + 0.2 * mark.size)
            else:
                _emblem(builder, nose, mark, 0.2 + 0.6 * mark.place[0], 0.84, 0.30 + 0.15 * mark.size)
        case "door emblem":
            for index, patch in enumerate(_sides(body, box=True)):
                u = 0.25 + 0.5 * mark.place[0]
                metres = (0.34 + 0.16 * mark.size) * (2.4 if patch.height > 1.5 else large)
                _emblem(builder, patch, mark, 1 - u if index else u, 0.55, metres)
        case "tail emblem":
            metres = (0.26 + 0.12 * mark.size) * (2.2 if rear_high is not tail else 1.0)
            u = 0.2 + 0.6 * mark.place[0]
            _emblem(builder, rear_high, mark, u, 0.78 if rear_high is tail else 0.5, metres)
        case "bumper sticker":
            width = 0.42 / tail.width
            u = 0.08 + (0.84 - width) * mark.place[0]
            _lay(builder, tail, _rectangle(u, u + width, 0.05, 0.05 + 0.15 / tail.height), color, 6)
        case "bumper lip":
            spans = [(0.04, 0.96)] if mark.shape == "full" else [(0.02, 0.2), (0.8, 0.98)]
            for u0, u1 in spans:
                _lay(builder, nose, _rectangle(u0, u1, 0.0, 0.11), color, 5)
        case "fog lamps":
            for u in (0.16, 0.84):
                scale = np.array([0.2 / nose.width, 0.14 / nose.height])
                _lay(builder, nose, np.array([u, 0.2]) + scale * _OUTLINES["circle"], color, 5, Material.LAMP)
        case "mirror caps":
            x = shape.cabin_base[1] - 0.30
            for part, side in ((Part.LEFT_MIRROR, 1.0), (Part.RIGHT_MIRROR, -1.0)):
                y0, y1 = sorted((side * 0.84 * shape.width / 2, side * (shape.width / 2 + 0.15)))
                builder.add_box((x - 0.09, y0, shape.belt), (x + 0.07, y1, shape.belt + 0.20), color, part, 1)
        case "spoiler":
            x, z = shape.tub[0] + 0.12, shape.topline[0][1] + 0.02
            half = 0.8 * shape.width / 2
            if shape.cabin_base[0] < shape.tub[0] + 0.3:  # a hatchback carries it on the roof's edge
                x, z, half = shape.cabin_top[0] + 0.05, shape.roof + 0.01, 0.6 * shape.width / 2
            builder.add_box((x - 0.16, -half, z + 0.06), (x + 0.10, half, z + 0.13), color, Part.ROOF)
        case "spare wheel":
            scale = np.array([0.66 / tail.width, 0.66 / tail.height])
            centre = np.array([0.5 + 0.24 * (mark.place[0] - 0.5), 0.72])
            _lay(builder, tail, centre + scale * _OUTLINES["circle"], _RUBBER, 5)
            _lay(builder, tail, centre + 0.7 * scale * _OUTLINES["circle"], color, 6)
        case "bed cargo":
            assert shape.bed is not None
            rear, front = shape.bed
            x = rear + 0.25 + 0.5 * mark.place[0]
            half = (0.35 + 0.35 * mark.size) * shape.width / 2
            top = shape.belt + 0.16 + 0.22 * mark.place[1]
            builder.add_box((x, -half, shape.belt), (min(x + 0.9, front - 0.1), half, top), color, Part.BOX)
        case _:
            _roof_mark(builder, body, mark)


_HUB_COLORS: dict[str, RGB] = {
    "silver": (188, 190, 194), "white": (238, 238, 236), "black": (70, 71, 74), "gold": (196, 158, 70),
}  # fmt: skip


def _add_hub(builder: MeshBuilder, body: Body, identity: Identity, x: float, side: float) -> None:
    shape = body.shape
    radius = 0.68 * shape.wheel_radius
    in_box = shape.cargo_box is not None and x < shape.cargo_box[1]
    part = Part.UNDERBODY if in_box else Part.TUB
    y = side * (shape.width / 2 + 0.005)
    outward = (0.0, side, 0.0)
    color = _HUB_COLORS[identity.hub_color]

    def points(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
        z = shape.wheel_radius + radii * np.sin(angles)
        return np.stack([x + radii * np.cos(angles), np.full_like(z, y), z], axis=1)

    circle = np.arange(14) * (2 * np.pi / 14)
    spokes = {"five spokes": 5, "six spokes": 6, "ten spokes": 10, "cross": 4}.get(identity.hub, 0)
    if spokes:
        # A star: its arms are the spokes, the tyre-dark ground shows between them.
        angles = np.pi / 2 + np.arange(4 * spokes) * (2 * np.pi / (4 * spokes))
        radii = radius * np.tile([1.0, 0.42, 0.42, 1.0], spokes)
        builder.add(points(radii, angles), outward, color, part, 5)
        builder.add(points(np.full(8, 0.26 * radius), circle[:8] * 14 / 8), outward, _BLACK, part, 6)
        return
    builder.add(points(np.full(14, radius), circle), outward, color, part, 5)
    if identity.hub == "disc":
        builder.add(points(np.full(14, 0.45 * radius), circle), outward, _BLACK, part, 6)
        return
    for k in range(4):
        angle = np.pi / 4 + k * np.pi / 2
        hole = _OUTLINES["circle"][::2] * 0.42 * radius
        centre = 0.58 * radius * np.array([np.cos(angle), np.sin(angle)])
        xz = centre + hole
        hole_3d = np.stack([x + xz[:, 0], np.full(len(xz), y), shape.wheel_radius + xz[:, 1]], axis=1)
        builder.add(hole_3d, outward, _BLACK, part, 6)


def add_marks(builder: MeshBuilder, body: Body, identity: Identity) -> None:
    """Adds hubs and every mark of an identity to a mesh under construction.

    Args:
        builder: Receives the polygons.
        body: The identity's body type.
        identity: What to draw.
    """
    for x in body.shape.wheel_x:
        for side in (1.0, -1.0):
            _add_hub(builder, body, identity, x, side)
    for mark in identity.marks:
        _add_mark(builder, body, mark)
