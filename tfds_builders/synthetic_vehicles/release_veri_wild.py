"""The VERI-Wild release: its names, lists, camera table and counts, filled with synthetic vehicles.

Counts and form are those of the first release (Lou et al., CVPR 2019): 277,797 training images of 30,671
vehicles and 174 cameras; 138,517 images of 10,000 other vehicles, of which one each is a query, and two
smaller tests within that one. The smaller tests' gallery sizes are near the official ones.
"""

import numpy as np

from tfds_builders.synthetic_vehicles.camera import SURVEILLANCE
from tfds_builders.synthetic_vehicles.identity import describe
from tfds_builders.synthetic_vehicles.pictures import Picture
from tfds_builders.synthetic_vehicles.release_counts import draw_counts, scaled
from tfds_builders.synthetic_vehicles.release_writer import ReleasePlan

TRAIN_IDENTITIES = 30_671
TRAIN_IMAGES = 277_797
CAMERAS = 174
# Each test extends the one before it by this many vehicles and images, queries included.
TESTS = {3000: (3_000, 41_861), 5000: (2_000, 69_389 - 41_861), 10000: (5_000, 138_517 - 69_389)}
_SIDES = (80.0, 150.0)  # geometric mean of height and width, pixels
_QUALITY = 90
_OCCLUSION_SHARES = {"none": 0.7, "light": 0.2, "heavy": 0.1}
_TYPE_NAMES = {"suv": "SUV", "sedan": "轿车", "hatchback": "两厢车", "van": "面包车"}


def plan(scale: float, seed: int) -> ReleasePlan:
    """Plans a release; a pure function of its arguments.

    Args:
        scale: 1.0 for the official counts; identities and images shrink or grow with it. The test lists keep
            their names, and the number of cameras stays.
        seed: Of the vehicles, the cameras and the lists.

    Returns:
        The plan, to be written by `release_writer.write_release`.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 23]))
    parts = {0: (scaled(TRAIN_IDENTITIES, scale, least=2), scaled(TRAIN_IMAGES, scale))} | {
        size: (scaled(identities, scale, least=2), scaled(images, scale))
        for size, (identities, images) in TESTS.items()
    }
    total = sum(identities for identities, _ in parts.values())
    labels = iter((rng.permutation(total) + 1).tolist())
    pictures: list[tuple[str, Picture]] = []
    rows: dict[int, list[list[str]]] = {part: [] for part in parts}  # for each vehicle, its names
    info: list[str] = []
    image = 0
    for part, (identities, images) in parts.items():
        counts = draw_counts(rng, identities, images, fewest=3, most=160)
        for label, count in zip(sorted(next(labels) for _ in range(identities)), counts, strict=True):
            look = describe(seed, label)
            seen_by = rng.choice(CAMERAS, size=min(count, int(rng.integers(2, 12))), replace=False).tolist()
            shares = draw_counts(rng, len(seen_by), count, 1, count)
            names = []
            for camera, share in zip(seen_by, shares, strict=True):
                for shot in range(share):
                    image += 1
                    names.append(f"{label:05d}/{image:06d}")
                    picture = Picture(
                        seed,
                        label,
                        camera,
                        shot,
                        side=round(float(np.exp(rng.uniform(*np.log(_SIDES))))),
                        square=False,
                        occlusion=str(
                            rng.choice(list(_OCCLUSION_SHARES), p=list(_OCCLUSION_SHARES.values()))
                        ),
                        cameras=SURVEILLANCE,
                        quality=_QUALITY,
                    )
                    pictures.append((f"images/{names[-1]}.jpg", picture))
                    time = f"2018-03-{image % 30 + 1:02d} {image % 24:02d}:{image % 60:02d}:00"
                    type_ = _TYPE_NAMES.get(look.body, look.body)
                    info.append(f"{names[-1]};{camera + 1};{time};合成{type_};{type_};{look.color}")
            rows[part].append(names)

    texts = {"train_test_split/train_list.txt": _list([name for names in rows[0] for name in names])}
    query: list[str] = []
    gallery: list[str] = []
    for size in TESTS:
        for names in rows[size]:
            chosen = int(rng.integers(len(names)))
            query.append(names[chosen])
            gallery.extend(name for index, name in enumerate(names) if index != chosen)
        texts[f"train_test_split/test_{size}_query.txt"] = _list(query)
        texts[f"train_test_split/test_{size}.txt"] = _list(gallery)
    header = "id/image;Camera ID;Time;Model;Type;Color"
    texts["train_test_split/vehicle_info.txt"] = "\r\n".join([header, *sorted(info)]).encode("gb18030")
    folders = sorted({name.rpartition("/")[0] for name, _ in pictures})
    return ReleasePlan(
        arguments={"format": "veri_wild", "scale": scale, "seed": seed},
        folders=("images", *folders, "train_test_split"),
        pictures=pictures,
        texts=texts,
    )


def _list(names: list[str]) -> bytes:
    return "".join(f"{name}.jpg\n" for name in sorted(names)).encode()
