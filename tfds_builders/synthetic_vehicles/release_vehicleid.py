"""The VehicleID release: its names, lists, attributes and counts, filled with synthetic vehicles.

Counts and form are those of the official release (Liu et al., CVPR 2016): 113,346 training images of 13,164
vehicles; test lists of 800, 1,600 and 2,400 other vehicles with 6,493, 13,377 and 19,777 images, each within
the next. The longer test lists are left out, as in many copies. Its irregularities are kept: a vehicle 0,
gaps in the numbers, line endings, "sliver", and model names in a Chinese encoding.
"""

import numpy as np

from tfds_builders.synthetic_vehicles.camera import SURVEILLANCE, make_camera
from tfds_builders.synthetic_vehicles.identity import describe
from tfds_builders.synthetic_vehicles.pictures import Picture
from tfds_builders.synthetic_vehicles.release_counts import draw_counts, scaled
from tfds_builders.synthetic_vehicles.release_writer import ReleasePlan
from tfds_builders.synthetic_vehicles.shapes import BODY_TYPES

TRAIN_IDENTITIES = 13_164
TRAIN_IMAGES = 113_346
# Each test list extends the one before it by this many vehicles and images.
TEST_LISTS = {800: (800, 6_493), 1600: (800, 13_377 - 6_493), 2400: (800, 19_777 - 13_377)}
MOST_IMAGES = 142  # of one identity
_CAMERAS = 24  # not named in the release
_SIDES = (72.0, 128.0)  # geometric mean of height and width, pixels
_QUALITY = 90
_GAP_SHARE = 0.2  # of the numbers of images and vehicles that are not used

_COLORS = ("black", "blue", "gray", "red", "sliver", "white", "yellow")
_MODELS = 250
_LABELLED_MODEL_SHARE = 10_309 / 26_328
_LABELLED_COLOR_SHARE = 10_086 / 10_309  # of those with a model
_BODY_NAMES = {
    "sedan": "轿车",
    "hatchback": "两厢车",
    "suv": "越野车",
    "van": "面包车",
    "pickup": "皮卡",
    "truck": "货车",
    "bus": "客车",
}


def plan(scale: float, seed: int) -> ReleasePlan:
    """Plans a release; a pure function of its arguments.

    Args:
        scale: 1.0 for the official counts; identities and images shrink or grow with it. The test lists keep
            their names.
        seed: Of the vehicles, the cameras and the lists.

    Returns:
        The plan, to be written by `release_writer.write_release`.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 22]))
    parts = {0: (scaled(TRAIN_IDENTITIES, scale, least=2), scaled(TRAIN_IMAGES, scale))} | {
        size: (scaled(identities, scale, least=2), scaled(images, scale))
        for size, (identities, images) in TEST_LISTS.items()
    }
    counts = {
        part: draw_counts(rng, identities, images, fewest=2, most=MOST_IMAGES)
        for part, (identities, images) in parts.items()
    }
    vehicle_total = sum(len(part) for part in counts.values())
    image_total = sum(sum(part) for part in counts.values())
    vehicles = _numbers_with_gaps(rng, vehicle_total, first=0)
    rng.shuffle(vehicles)
    image_numbers = iter(_numbers_with_gaps(rng, image_total, first=1))
    cameras = _front_and_rear_cameras(seed)

    pictures: list[tuple[str, Picture]] = []
    rows: dict[int, list[str]] = {part: [] for part in parts}
    given = iter(vehicles)
    for part, part_counts in counts.items():
        for vehicle, count in zip(
            sorted(next(given) for _ in range(len(part_counts))), part_counts, strict=True
        ):
            for shot in range(count):
                name = f"{next(image_numbers):07d}"
                picture = Picture(
                    seed,
                    vehicle,
                    cameras[int(rng.integers(len(cameras)))],
                    shot,
                    side=round(float(np.exp(rng.uniform(*np.log(_SIDES))))),
                    square=False,
                    occlusion="none",
                    cameras=SURVEILLANCE,
                    quality=_QUALITY,
                )
                pictures.append((f"image/{name}.jpg", picture))
                rows[part].append(f"{name} {vehicle}")

    texts = {"train_test_split/train_list.txt": _lines(rows[0], "\n")}
    test_rows: list[str] = []
    for size in TEST_LISTS:
        test_rows = test_rows + rows[size]
        texts[f"train_test_split/test_list_{size}.txt"] = _lines(test_rows, "\n")
    texts["attribute/img2vid.txt"] = _lines(sorted(rows[0] + test_rows), "\r\n")
    texts |= _attributes(rng, sorted(vehicles), seed)
    return ReleasePlan(
        arguments={"format": "vehicleid", "scale": scale, "seed": seed},
        folders=("image", "train_test_split", "attribute"),
        pictures=pictures,
        texts=texts,
    )


def _lines(lines: list[str], ending: str) -> bytes:
    return "".join(line + ending for line in lines).encode()


def _numbers_with_gaps(rng: np.random.Generator, count: int, first: int) -> list[int]:
    """Ascending numbers from `first`, which is among them, of which some are not used."""
    span = round(count / (1 - _GAP_SHARE))
    chosen = rng.choice(np.arange(first + 1, first + span), size=count - 1, replace=False)
    return [first, *np.sort(chosen).tolist()]


def _front_and_rear_cameras(seed: int) -> list[int]:
    """Cameras that see vehicles from the front or from behind, as all of VehicleID's do."""
    found: list[int] = []
    camera = 0
    while len(found) < _CAMERAS:
        azimuth = abs((make_camera(seed, camera, SURVEILLANCE).azimuth + 180) % 360 - 180)
        if azimuth < 55 or azimuth > 125:
            found.append(camera)
        camera += 1
    return found


def _attributes(rng: np.random.Generator, vehicles: list[int], seed: int) -> dict[str, bytes]:
    """The attribute files: some vehicles have a model, and most of these a colour."""
    per_body = _MODELS // len(BODY_TYPES)
    models, colors = [], []
    for vehicle in vehicles:
        if rng.random() > _LABELLED_MODEL_SHARE:
            continue
        look = describe(seed, vehicle)
        models.append(f"{vehicle} {BODY_TYPES.index(look.body) * per_body + vehicle % per_body}")
        color = "sliver" if look.color == "gray" and look.shade > 1 else look.color
        if color in _COLORS and rng.random() < _LABELLED_COLOR_SHARE:
            colors.append(f"{vehicle} {_COLORS.index(color)}")
    names = [f"合成{_BODY_NAMES[body]} {number + 1}型" for body in BODY_TYPES for number in range(per_body)]
    names += [f"合成车型{number}" for number in range(len(names), _MODELS)]
    return {
        "attribute/model_attr.txt": _lines(models, "\n"),
        "attribute/color_attr.txt": _lines(colors, "\r\n"),
        "attribute/color_names.txt": _lines([f"{name} {i}" for i, name in enumerate(_COLORS)], "\r\n"),
        "attribute/model_names.txt": "\n".join(f"{name} {i}" for i, name in enumerate(names)).encode(
            "gb18030"
        ),
    }
