"""The VeRi-776 release: its names, lists, labels, index files and counts, filled with synthetic vehicles.

Counts and form are those of the official release (Liu et al., ECCV 2016): 37,778 training images of 576
vehicles and 20 cameras; 11,579 gallery images of 200 other vehicles and 19 cameras, 1,678 of which are also
queries, one for each vehicle and camera. So are its irregularities: mixed line endings, labels that lack
pictures and name others, types that are 0.
"""

import collections

import numpy as np

from tfds_builders.synthetic_vehicles.camera import SURVEILLANCE
from tfds_builders.synthetic_vehicles.identity import PAINTS, describe
from tfds_builders.synthetic_vehicles.pictures import Picture
from tfds_builders.synthetic_vehicles.release_counts import draw_counts, scaled
from tfds_builders.synthetic_vehicles.release_writer import ReleasePlan

TRAIN_IDENTITIES = 576
TEST_IDENTITIES = 200
TRAIN_IMAGES = 37_778
GALLERY_IMAGES = 11_579
QUERIES = 1_678
CAMERAS = 20
TEST_CAMERAS = 19  # the last camera has no test images

# The release's own order of type numbers, from 1; colours are in the order of `PAINTS`.
_TYPES = ("sedan", "suv", "van", "hatchback", "mpv", "pickup", "bus", "truck", "estate")
_UNTYPED = (3, 7, 41)  # vehicles whose type is 0 in old copies
_MISNAMED = 12  # label items that name no picture of the list
_SIDES = (72.0, 150.0)  # geometric mean of height and width, pixels
_QUALITY = 90
_OCCLUSION_SHARES = {"none": 0.6, "light": 0.3, "heavy": 0.1}


def plan(scale: float, seed: int) -> ReleasePlan:
    """Plans a release; a pure function of its arguments.

    Args:
        scale: 1.0 for the official counts; identities and images shrink or grow with it, and there are at
            least three training and two test identities. The number of cameras stays.
        seed: Of the vehicles, the cameras and the lists.

    Returns:
        The plan, to be written by `release_writer.write_release`.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 21]))
    train_identities = scaled(TRAIN_IDENTITIES, scale, least=3)
    test_identities = scaled(TEST_IDENTITIES, scale, least=2)
    labels = (rng.permutation(train_identities + test_identities) + 1).tolist()
    train: dict[str, Picture] = {}
    gallery: dict[str, Picture] = {}

    def add(split: dict[str, Picture], label: int, camera: int, images: int) -> list[str]:
        """Adds one track: consecutive pictures of a vehicle by a camera."""
        first, step = int(rng.integers(1, 90_000)), int(rng.integers(5, 30))
        names = []
        for shot in range(images):
            name = f"{label:04d}_c{camera:03d}_{first + shot * step:08d}_{shot}.jpg"
            split[name] = Picture(
                seed,
                label,
                camera - 1,
                shot,
                side=round(float(np.exp(rng.uniform(*np.log(_SIDES))))),
                square=False,
                occlusion=str(rng.choice(list(_OCCLUSION_SHARES), p=list(_OCCLUSION_SHARES.values()))),
                cameras=SURVEILLANCE,
                quality=_QUALITY,
            )
            names.append(name)
        return names

    counts = draw_counts(rng, train_identities, scaled(TRAIN_IMAGES, scale), fewest=8, most=260)
    for label, count in zip(labels[:train_identities], counts, strict=True):
        seen_by = rng.choice(CAMERAS, size=min(count, int(rng.integers(2, 15))), replace=False) + 1
        for camera, images in zip(
            seen_by.tolist(), draw_counts(rng, len(seen_by), count, 1, count), strict=True
        ):
            add(train, label, camera, images)

    query: list[str] = []
    seen_counts = draw_counts(rng, test_identities, scaled(QUERIES, scale), fewest=2, most=18)
    gallery_counts = draw_counts(
        rng, sum(seen_counts), scaled(GALLERY_IMAGES, scale), fewest=1, most=max(40, round(60 * scale))
    )
    remaining = iter(gallery_counts)
    for label, count in zip(labels[train_identities:], seen_counts, strict=True):
        for camera in (rng.choice(TEST_CAMERAS, size=count, replace=False) + 1).tolist():
            names = add(gallery, label, camera, next(remaining))
            query.append(names[int(rng.integers(len(names)))])

    query.sort()
    train_names, gallery_names = sorted(train), sorted(gallery)
    good, junk = _index_lines(query, gallery_names)
    pictures = [(f"image_train/{name}", train[name]) for name in train_names]
    pictures += [(f"image_test/{name}", gallery[name]) for name in gallery_names]
    pictures += [(f"image_query/{name}", gallery[name]) for name in query]
    texts = {
        "name_train.txt": _lines(train_names, "\r\n"),
        "name_query.txt": _lines(query, "\n"),
        "name_test.txt": "\r\n".join(gallery_names).encode(),  # without a final line ending
        "gt_index.txt": _lines(good, "\r\n"),
        "jk_index.txt": _lines(junk, "\r\n"),
        "train_label.xml": _labels("TrainingImages", _damage_labels(rng, train_names), seed),
        "test_label.xml": _labels("TestImages", gallery_names, seed),
        "test_track.txt": _lines(_tracks(gallery_names), "\r\n"),
        "camera_Dist.txt": _distances(rng),
        "list_color.txt": _lines([f"{number} {name}" for number, name in enumerate(PAINTS, 1)], "\r\n"),
        "list_type.txt": _lines([f"{number} {name}" for number, name in enumerate(_TYPES, 1)], "\r\n"),
    }
    return ReleasePlan(
        arguments={"format": "veri776", "scale": scale, "seed": seed},
        folders=("image_train", "image_query", "image_test"),
        pictures=pictures,
        texts=texts,
    )


def _lines(lines: list[str], ending: str) -> bytes:
    return "".join(line + ending for line in lines).encode()


def _index_lines(query: list[str], gallery: list[str]) -> tuple[list[str], list[str]]:
    """The lines of gt_index.txt and jk_index.txt: 1-based, ascending, each number followed by a space."""
    of_vehicle = collections.defaultdict(list)
    for index, name in enumerate(gallery, start=1):
        of_vehicle[name[:4]].append((index, name[5:9]))
    good, junk = [], []
    for name in query:
        same = of_vehicle[name[:4]]
        good.append("".join(f"{index} " for index, camera in same if camera != name[5:9]))
        junk.append("".join(f"{index} " for index, camera in same if camera == name[5:9]))
    return good, junk


def _damage_labels(rng: np.random.Generator, names: list[str]) -> list[str]:
    """Leaves out pictures and renames others, as the official training labels do.

    They lack a vehicle, five pictures of another and three of a third, and a dozen name no picture.
    """
    of_vehicle = collections.defaultdict(list)
    for name in names:
        of_vehicle[name[:4]].append(name)
    # The vehicle that is lacking altogether has 24 pictures in the official release.
    lacking = min(of_vehicle, key=lambda vehicle: (abs(len(of_vehicle[vehicle]) - 24), vehicle))
    others = sorted(set(of_vehicle) - {lacking})
    left_out = set(of_vehicle[lacking])
    for vehicle, number in zip(rng.choice(others, size=2, replace=False).tolist(), (5, 3), strict=True):
        left_out.update(of_vehicle[vehicle][:number])
    kept = [name for name in names if name not in left_out]
    for index in rng.choice(len(kept), size=min(_MISNAMED, len(kept) // 2), replace=False).tolist():
        vehicle, camera, frame, shot = kept[index].split("_")
        # No picture of the list has such a late frame.
        kept[index] = "_".join((vehicle, camera, f"{int(frame) + 10_000_000:08d}", shot))
    return kept


def _labels(tag: str, names: list[str], seed: int) -> bytes:
    lines = [
        '<?xml version="1.0" encoding="gb2312" ?>',
        "<!-- 合成车辆 -->",
        f'<{tag} Version="1.0">',
        f'<Items number="{len(names)}">',
    ]
    colors = list(PAINTS)
    for name in names:
        label = int(name[:4])
        vehicle = describe(seed, label)
        type_ = 0 if label in _UNTYPED else _TYPES.index(vehicle.body) + 1
        lines.append(
            f'<Item imageName="{name}" vehicleID="{name[:4]}" cameraID="{name[5:9]}" '
            f'colorID="{colors.index(vehicle.color) + 1}" typeID="{type_}" />'
        )
    lines += ["</Items>", f"</{tag}>", ""]
    return "\r\n".join(lines).encode("gb2312")


def _tracks(names: list[str]) -> list[str]:
    """One line for each vehicle and camera: its pictures, each followed by a space."""
    of_track = collections.defaultdict(list)
    for name in names:
        of_track[name[:9]].append(name)
    return ["".join(f"{name} " for name in track) for track in of_track.values()]


def _distances(rng: np.random.Generator) -> bytes:
    """Distances between the cameras in metres, upper triangular."""
    places = rng.uniform(0, 1000, size=(CAMERAS, 2))
    distances = np.triu(np.linalg.norm(places[:, None] - places[None], axis=-1))
    return _lines(["".join(f"{value:.0f} " for value in row) for row in distances.tolist()], "\r\n")
