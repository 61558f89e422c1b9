"""The VRIC release: its names, lists and counts, filled with synthetic vehicles.

Counts and form are those of the official release (Kanaci, Zhu, Gong: "Vehicle Re-Identification in Context",
GCPR 2018): 54,808 training images of 2,811 vehicles, at most 40 each; one probe and one gallery image, from
different cameras, of each of 2,811 other vehicles; 120 cameras.
"""

import numpy as np

from tfds_builders.synthetic_vehicles.camera import LOW_RESOLUTION
from tfds_builders.synthetic_vehicles.pictures import Picture
from tfds_builders.synthetic_vehicles.release_counts import draw_counts
from tfds_builders.synthetic_vehicles.release_writer import ReleasePlan

IDENTITIES = 2811  # in training; as many others in the test
TRAIN_IMAGES = 54808
CAMERAS = 120
MOST_IMAGES = 40  # of one training identity
_FEWEST_IMAGES = 2
_QUALITY = 90
_OCCLUSION_SHARES = {"none": 0.6, "light": 0.3, "heavy": 0.1}

_README = """Synthetic vehicles in the on-disk form of VRIC.

These are rendered pictures, not photographs: no image of the VRIC release is here. Scale {scale}, seed {seed}.

train_images/    vric_train.txt     {train} images
probe_images/    vric_probe.txt     {probe} images
gallery_images/  vric_gallery.txt   {gallery} images

Each line of a list: image name, vehicle id, camera id.
"""


def _sequence_numbers(rng: np.random.Generator) -> np.ndarray:
    """A five-digit video number for each camera, from the ranges that the real names come from."""
    pool = np.concatenate(
        [np.arange(20010, 20070), np.arange(39760, 39870), np.arange(40130, 40250), np.arange(63520, 63570)]
    )
    return rng.choice(pool, size=CAMERAS, replace=False)


def plan(scale: float, seed: int) -> ReleasePlan:
    """Plans a release; a pure function of its arguments.

    Args:
        scale: 1.0 for the official counts; identities and training images shrink or grow with it, and there
            are at least two identities each. The number of cameras stays.
        seed: Of the vehicles, the cameras and the lists.

    Returns:
        The plan, to be written by `release_writer.write_release`.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 11]))
    identities = max(2, round(scale * IDENTITIES))
    counts = draw_counts(rng, identities, round(scale * TRAIN_IMAGES), _FEWEST_IMAGES, MOST_IMAGES)
    labels = rng.permutation(2 * identities) + 1
    videos = _sequence_numbers(rng)
    tracks = np.zeros(CAMERAS, int)  # tracks given out so far in each camera's video
    pictures: list[tuple[str, Picture]] = []
    lines: dict[str, list[str]] = {"train": [], "probe": [], "gallery": []}

    def add(split: str, label: int, camera: int, track: int, frame: int, shot: int) -> None:
        name = f"MVI_{videos[camera]}_{track:03d}_img{frame:05d}.jpg"
        side = round(float(np.exp(rng.uniform(np.log(52), np.log(132)))))
        occlusion = str(rng.choice(list(_OCCLUSION_SHARES), p=list(_OCCLUSION_SHARES.values())))
        picture = Picture(
            seed,
            label,
            camera,
            shot,
            side,
            square=False,
            occlusion=occlusion,
            cameras=LOW_RESOLUTION,
            quality=_QUALITY,
        )
        pictures.append((f"{split}_images/{name}", picture))
        lines[split].append(f"{name} {label} {camera + 1}")

    def start_track(camera: int) -> tuple[int, int, int]:
        """Returns a new track's number, first frame, and step between frames."""
        tracks[camera] += 1
        return int(tracks[camera]), int(rng.integers(1, 1600)), int(rng.integers(3, 12))

    for label, count in zip(labels[:identities].tolist(), counts, strict=True):
        seen_by = rng.choice(CAMERAS, size=min(count, int(rng.integers(2, 6))), replace=False).tolist()
        shares = (
            np.bincount(rng.integers(len(seen_by), size=count - len(seen_by)), minlength=len(seen_by)) + 1
        )
        for camera, images in zip(seen_by, shares.tolist(), strict=True):
            track, frame, step = start_track(camera)
            for shot in range(images):
                add("train", label, camera, track, frame + shot * step, shot)
    for label in labels[identities:].tolist():
        probe, gallery = rng.choice(CAMERAS, size=2, replace=False).tolist()
        for split, camera in (("probe", probe), ("gallery", gallery)):
            track, frame, _ = start_track(camera)
            add(split, label, camera, track, frame, 0)

    texts = {
        f"vric_{split}.txt": ("\n".join(sorted(entries)) + "\n").encode() for split, entries in lines.items()
    }
    sizes = {split: len(entries) for split, entries in lines.items()}
    texts["README.txt"] = _README.format(scale=scale, seed=seed, **sizes).encode()
    return ReleasePlan(
        arguments={"format": "vric", "scale": scale, "seed": seed},
        folders=("train_images", "probe_images", "gallery_images"),
        pictures=pictures,
        texts=texts,
    )
