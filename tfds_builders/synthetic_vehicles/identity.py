"""What an identity is: a body type, a paint, a hub style, and the fine marks that tell it from its twins."""

import dataclasses
import functools

import numpy as np

from tfds_builders.synthetic_vehicles.shapes import BODY_TYPES

RGB = tuple[float, float, float]

# The ten colour names of VeRi-776, in its order (colour 1 to 10).
PAINTS: dict[str, RGB] = {
    "yellow": (236, 190, 30),
    "orange": (226, 104, 24),
    "green": (44, 112, 62),
    "gray": (122, 126, 130),
    "red": (178, 26, 30),
    "blue": (34, 72, 152),
    "white": (236, 237, 235),
    "golden": (190, 164, 112),
    "brown": (94, 62, 44),
    "black": (30, 31, 34),
}
# How often each is met: most vehicles are white, black or gray, so paint alone says little.
_PAINT_SHARES = (0.06, 0.03, 0.04, 0.18, 0.08, 0.09, 0.27, 0.05, 0.03, 0.17)
_BODY_SHARES: dict[str, float] = {
    "sedan": 0.30, "hatchback": 0.16, "suv": 0.20, "van": 0.12, "pickup": 0.08, "truck": 0.08, "bus": 0.06,
}  # fmt: skip

MARK_COLORS: dict[str, RGB] = {
    "white": (245, 245, 240),
    "black": (22, 22, 24),
    "red": (214, 24, 30),
    "yellow": (250, 214, 20),
    "blue": (24, 90, 214),
    "green": (22, 160, 70),
    "orange": (246, 128, 20),
    "cyan": (60, 200, 226),
    "pink": (240, 110, 170),
}
_TOO_CLOSE: dict[str, tuple[str, ...]] = {  # mark colours that vanish on a paint
    "white": ("white",), "black": ("black",), "red": ("red",), "yellow": ("yellow",), "blue": ("blue",),
    "green": ("green",), "orange": ("orange", "red"), "golden": ("yellow",), "brown": ("black",), "gray": (),
}  # fmt: skip

HUB_STYLES = ("five spokes", "six spokes", "ten spokes", "disc", "steel holes", "cross")
EMBLEMS = ("circle", "diamond", "triangle", "bar", "square", "cross", "ring")


@dataclasses.dataclass(frozen=True)
class Mark:
    """One fine mark.

    Attributes:
        kind: What it is, e.g. "side stripe"; `marks.add_marks` knows how to draw each kind.
        color: A name in `MARK_COLORS`.
        place: Position on its surface, each number in 0-1; their meaning depends on the kind.
        size: 0-1, from the smallest to the largest of its kind.
        shape: Variant of the kind, e.g. an emblem's name.
        accent: A second colour name.
    """

    kind: str
    color: str
    place: tuple[float, float] = (0.5, 0.5)
    size: float = 0.5
    shape: str = ""
    accent: str = "white"

    def __str__(self) -> str:
        """A phrase for people."""
        return " ".join(word for word in (self.color, self.shape, self.kind) if word)


@dataclasses.dataclass(frozen=True)
class Identity:
    """A vehicle, as `describe` tells it and `vehicle.build_vehicle` draws it.

    Attributes:
        body: One of `BODY_TYPES`; TFDS feature `type`.
        color: One of `PAINTS`; TFDS feature `color`.
        hub: One of `HUB_STYLES`.
        hub_color: "silver", "white", "black" or "gold".
        marks: Its fine marks.
        shade: Small departure of its paint from the named colour, as a factor.
    """

    body: str
    color: str
    hub: str
    hub_color: str
    marks: tuple[Mark, ...]
    shade: float


def _choice(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _place(rng: np.random.Generator) -> tuple[float, float]:
    u, v = rng.random(2)
    return float(u), float(v)


def _marks(rng: np.random.Generator, body: str, paint: str) -> tuple[Mark, ...]:
    """Draws an identity's marks: something on every face, so that it is known from the front and the rear."""
    contrasting = tuple(name for name in MARK_COLORS if name not in _TOO_CLOSE[paint])
    vivid = tuple(MARK_COLORS)
    large = body in ("van", "truck", "bus")
    marks: list[Mark] = []

    def add(kind: str, colors: tuple[str, ...], shapes: tuple[str, ...] = ("",)) -> None:
        marks.append(
            Mark(
                kind, _choice(rng, colors), _place(rng), float(rng.random()),
                _choice(rng, shapes), _choice(rng, contrasting),
            )
        )  # fmt: skip

    def maybe(share: float) -> bool:
        return bool(rng.random() < share)

    # Roof and centre line: seen from the front and from behind.
    roof = ["crossbars", "rails", "hatch", "box", "lamp bar", "panel", "fin", ""]
    roof_shares = np.array([0.14, 0.10, 0.12, 0.12, 0.08, 0.16, 0.06, 0.22])
    on_roof = roof[int(rng.choice(len(roof), p=roof_shares))]
    if on_roof:
        add(f"roof {on_roof}", vivid if on_roof in ("box", "lamp bar") else contrasting)
    if maybe(0.22):
        add("centre stripes", contrasting, ("single", "double", "offset"))
    # Front.
    if maybe(0.5):
        add("sun visor", ("green", "blue", "black", "red", "cyan"))
    for _ in range(int(rng.integers(1, 4))):
        add("windscreen sticker", vivid, ("round", "square", "wide"))
    if maybe(0.45):
        add("dashboard ornament", ("red", "yellow", "white", "pink", "orange", "green"))
    if maybe(0.45):
        add("nose emblem" if large else "bonnet emblem", contrasting, EMBLEMS)
    if maybe(0.3):
        add("bumper lip", contrasting, ("full", "corners"))
    if maybe(0.2):
        add("fog lamps", ("yellow", "white", "orange"))
    # Sides.
    if maybe(0.55):
        add("side stripe", contrasting, ("straight", "double", "wedge", "broken"))
    if maybe(0.9 if large else 0.25):
        add("lettering", contrasting, ("one line", "two lines"))
    if maybe(0.6):
        add("door emblem", contrasting, EMBLEMS)
    if maybe(0.3):
        add("dent", ("black",))
    if maybe(0.25):
        add("mirror caps", contrasting)
    # Rear.
    for _ in range(int(rng.integers(1, 3))):
        add("rear sticker", vivid, ("round", "square", "wide"))
    if maybe(0.6):
        add("tail emblem", contrasting, EMBLEMS)
    if maybe(0.5):
        add("bumper sticker", vivid)
    if maybe(0.25) and not large:
        add("spoiler" if body in ("sedan", "hatchback") else "spare wheel", contrasting)
    if maybe(0.5) and body == "pickup":
        add("bed cargo", vivid)
    return tuple(marks)


@functools.lru_cache(maxsize=4096)
def describe(seed: int, identity: int) -> Identity:
    """Tells what an identity looks like.

    Args:
        seed: Of the world of vehicles.
        identity: Any non-negative number; the same pair always names the same vehicle.

    Returns:
        Body type, colour, hubs and marks.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 1, identity]))
    body = BODY_TYPES[int(rng.choice(len(BODY_TYPES), p=[_BODY_SHARES[name] for name in BODY_TYPES]))]
    color = list(PAINTS)[int(rng.choice(len(PAINTS), p=_PAINT_SHARES))]
    hub = _choice(rng, HUB_STYLES)
    hub_color = _choice(rng, ("silver", "silver", "white", "black", "gold"))
    return Identity(body, color, hub, hub_color, _marks(rng, body, color), float(rng.uniform(0.94, 1.04)))
