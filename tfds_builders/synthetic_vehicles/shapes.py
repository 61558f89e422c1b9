"""The measures of the seven body types, in metres."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """What `body.build_body` needs to know of a body type. Lengths in metres; x is 0 at the centre.

    Attributes:
        length: Bumper to bumper.
        width: Without mirrors.
        clearance: Height of the sill.
        tub: (rear x, front x) of the lower body; shorter than the vehicle for a truck's cab.
        topline: (x, z) points, rear to front: boot lid, belt line, bonnet.
        nose_drop: How much of the lower body's height the front face loses at the very front.
        cabin_base: (rear x, front x) of the cabin where it meets the lower body.
        cabin_top: (rear x, front x) at the roof.
        belt: Height at which the cabin begins.
        roof: Height of the roof.
        roof_width: Half width at the roof over half width at the belt.
        side_windows: (begin, end) of each side window as shares of the cabin's side, from the front.
        window_sill: (bottom, top) of side windows as shares of the cabin's height.
        wheel_x: Axle positions.
        wheel_radius: Of the tyre.
        lamp_z: (bottom, top) of the headlights.
        tail_z: (bottom, top) of the tail lights.
        tail_inner: Where a tail light begins, as a share of the half width (small: wide lights).
        cargo_box: (rear x, front x, bottom z, top z) of a separate cargo box, if there is one.
        bed: (rear x, front x) of an open load bed, if there is one.
        rear_window: Whether the back of the cabin has a window.
    """

    length: float
    width: float
    clearance: float
    tub: tuple[float, float]
    topline: tuple[tuple[float, float], ...]
    nose_drop: float
    cabin_base: tuple[float, float]
    cabin_top: tuple[float, float]
    belt: float
    roof: float
    roof_width: float
    side_windows: tuple[tuple[float, float], ...]
    window_sill: tuple[float, float]
    wheel_x: tuple[float, ...]
    wheel_radius: float
    lamp_z: tuple[float, float]
    tail_z: tuple[float, float]
    tail_inner: float
    cargo_box: tuple[float, float, float, float] | None = None
    bed: tuple[float, float] | None = None
    rear_window: bool = True

    @property
    def height(self) -> float:
        """Height of the whole vehicle, without marks."""
        return self.roof if self.cargo_box is None else max(self.roof, self.cargo_box[3])


SHAPES: dict[str, Shape] = {
    "sedan": Shape(
        length=4.6,
        width=1.82,
        clearance=0.22,
        tub=(-2.3, 2.3),
        topline=((-2.3, 0.90), (-2.1, 0.99), (-1.5, 1.0), (0.9, 0.95), (1.7, 0.87), (2.3, 0.74)),
        nose_drop=0.10,
        cabin_base=(-1.72, 1.02),
        cabin_top=(-0.95, 0.22),
        belt=0.95,
        roof=1.46,
        roof_width=0.80,
        side_windows=((0.09, 0.50), (0.54, 0.90)),
        window_sill=(0.10, 0.86),
        wheel_x=(-1.35, 1.4),
        wheel_radius=0.32,
        lamp_z=(0.58, 0.74),
        tail_z=(0.68, 0.88),
        tail_inner=0.42,
    ),
    "hatchback": Shape(
        length=3.9,
        width=1.74,
        clearance=0.21,
        tub=(-1.95, 1.95),
        topline=((-1.95, 0.94), (-1.6, 0.99), (0.7, 0.95), (1.4, 0.88), (1.95, 0.74)),
        nose_drop=0.12,
        cabin_base=(-1.88, 0.86),
        cabin_top=(-1.50, 0.12),
        belt=0.95,
        roof=1.52,
        roof_width=0.80,
        side_windows=((0.09, 0.52), (0.56, 0.93)),
        window_sill=(0.10, 0.86),
        wheel_x=(-1.22, 1.22),
        wheel_radius=0.31,
        lamp_z=(0.60, 0.80),
        tail_z=(0.72, 0.96),
        tail_inner=0.62,
    ),
    "suv": Shape(
        length=4.7,
        width=1.92,
        clearance=0.30,
        tub=(-2.35, 2.35),
        topline=((-2.35, 1.12), (-2.0, 1.16), (0.9, 1.12), (1.8, 1.07), (2.35, 0.96)),
        nose_drop=0.08,
        cabin_base=(-2.27, 1.05),
        cabin_top=(-2.0, 0.42),
        belt=1.12,
        roof=1.78,
        roof_width=0.84,
        side_windows=((0.07, 0.36), (0.39, 0.66), (0.69, 0.95)),
        window_sill=(0.10, 0.84),
        wheel_x=(-1.42, 1.45),
        wheel_radius=0.39,
        lamp_z=(0.78, 0.96),
        tail_z=(0.80, 1.10),
        tail_inner=0.70,
    ),
    "van": Shape(
        length=4.9,
        width=1.95,
        clearance=0.25,
        tub=(-2.45, 2.45),
        topline=((-2.45, 1.20), (1.5, 1.20), (1.8, 1.16), (2.45, 0.94)),
        nose_drop=0.08,
        cabin_base=(-2.42, 1.82),
        cabin_top=(-2.34, 1.08),
        belt=1.18,
        roof=2.08,
        roof_width=0.88,
        side_windows=((0.07, 0.28),),
        window_sill=(0.08, 0.74),
        wheel_x=(-1.5, 1.6),
        wheel_radius=0.34,
        lamp_z=(0.64, 0.84),
        tail_z=(0.75, 1.15),
        tail_inner=0.84,
    ),
    "pickup": Shape(
        length=5.3,
        width=1.92,
        clearance=0.34,
        tub=(-2.65, 2.65),
        topline=((-2.65, 1.10), (-0.7, 1.10), (1.1, 1.12), (2.0, 1.08), (2.65, 0.97)),
        nose_drop=0.07,
        cabin_base=(-0.62, 1.30),
        cabin_top=(-0.42, 0.66),
        belt=1.10,
        roof=1.78,
        roof_width=0.84,
        side_windows=((0.09, 0.52), (0.56, 0.93)),
        window_sill=(0.10, 0.84),
        wheel_x=(-1.65, 1.65),
        wheel_radius=0.40,
        lamp_z=(0.80, 0.97),
        tail_z=(0.72, 1.02),
        tail_inner=0.84,
        bed=(-2.55, -0.72),
    ),
    "truck": Shape(
        length=6.8,
        width=2.2,
        clearance=0.45,
        tub=(1.75, 3.4),
        topline=((1.75, 1.45), (3.4, 1.40)),
        nose_drop=0.02,
        cabin_base=(1.80, 3.36),
        cabin_top=(1.88, 3.02),
        belt=1.40,
        roof=2.32,
        roof_width=0.90,
        side_windows=((0.12, 0.72),),
        window_sill=(0.06, 0.80),
        wheel_x=(-2.1, 2.5),
        wheel_radius=0.46,
        lamp_z=(0.72, 0.96),
        tail_z=(0.72, 0.90),
        tail_inner=0.70,
        cargo_box=(-3.4, 1.62, 0.98, 3.0),
        rear_window=False,
    ),
    "bus": Shape(
        length=8.6,
        width=2.45,
        clearance=0.32,
        tub=(-4.3, 4.3),
        topline=((-4.3, 1.25), (4.3, 1.20)),
        nose_drop=0.0,
        cabin_base=(-4.27, 4.24),
        cabin_top=(-4.18, 4.02),
        belt=1.20,
        roof=3.0,
        roof_width=0.93,
        side_windows=((0.03, 0.13), (0.16, 0.34), (0.36, 0.54), (0.56, 0.74), (0.76, 0.95)),
        window_sill=(0.06, 0.66),
        wheel_x=(-2.5, 2.6),
        wheel_radius=0.48,
        lamp_z=(0.68, 0.92),
        tail_z=(0.75, 1.15),
        tail_inner=0.80,
    ),
}

BODY_TYPES: tuple[str, ...] = tuple(SHAPES)
