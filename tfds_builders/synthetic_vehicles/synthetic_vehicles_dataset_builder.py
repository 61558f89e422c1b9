"""The TFDS builder of the synthetic vehicles: train, query and gallery as in VeRi-776, rendered on first use."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.progress import progress_bar
from tfds_builders.synthetic_vehicles.camera import SURVEILLANCE
from tfds_builders.synthetic_vehicles.identity import describe
from tfds_builders.synthetic_vehicles.occluders import OCCLUSION_LEVELS
from tfds_builders.synthetic_vehicles.pictures import Picture, chunks_by_identity, default_workers, take_all

# TFDS keeps a shard in memory while it writes it: some 100 MB of pictures at 128 px.
_SHARD_PICTURES = 10_000

Example = dict[str, bytes | int | str]


@dataclasses.dataclass
class SyntheticVehiclesConfig(tfds.core.BuilderConfig):
    """How many synthetic vehicles to render, and how.

    Attributes:
        seed: Of the world; another seed gives other vehicles and cameras.
        image_size: Side of the square pictures, pixels.
        cameras: Number of cameras; all splits share them, as in VeRi-776.
        occlusion: "none", "light" or "heavy"; every picture has an occluder of that level.
        train_identities: Vehicles in the training split.
        train_images: Pictures of each, over all cameras.
        test_identities: Vehicles that have query pictures. None of them is in the training split.
        test_cameras: Cameras that saw each test vehicle.
        queries: Query pictures of each test vehicle, each from another camera.
        gallery_images: Gallery pictures of each test vehicle from each of its cameras.
        distractor_identities: Vehicles that are in the gallery only.
        jpeg_quality: 1-100.
        workers: Rendering processes; 0 takes all cores. Does not change the result.
    """

    seed: int = 0
    image_size: int = 96
    cameras: int = 12
    occlusion: str = "light"
    train_identities: int = 300
    train_images: int = 16
    test_identities: int = 100
    test_cameras: int = 5
    queries: int = 2
    gallery_images: int = 2
    distractor_identities: int = 40
    jpeg_quality: int = 92
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuses numbers that cannot be met."""
        problem = None
        if not self.queries <= self.test_cameras <= self.cameras:
            problem = (
                f"queries ({self.queries}) must be at most test_cameras ({self.test_cameras}), which must be at "
                f"most cameras ({self.cameras})"
            )
        elif self.test_cameras < 2:
            problem = (
                f"test_cameras is {self.test_cameras}; expected 2 or more, since only other cameras count"
            )
        elif self.occlusion not in OCCLUSION_LEVELS:
            problem = f"occlusion is {self.occlusion!r}; expected one of {', '.join(OCCLUSION_LEVELS)}"
        elif self.image_size < 16:
            problem = f"image_size is {self.image_size}; expected 16 or more pixels"
        if problem is not None:
            raise ValueError(f"SyntheticVehiclesConfig {self.name!r}: {problem}.")


def plan_splits(config: SyntheticVehiclesConfig) -> dict[str, list[Picture]]:
    """Says which pictures each split holds, in order.

    Identities are numbered on from split to split: first those of train, then those of query and gallery,
    then the distractors. A query's own camera has pictures of its vehicle in the gallery too, which the
    protocol must leave out, as in VeRi-776.

    Args:
        config: The numbers.

    Returns:
        The pictures of "train", "query" and "gallery"; a pure function of the config.
    """
    splits: dict[str, list[Picture]] = {"train": [], "query": [], "gallery": []}
    rng = np.random.Generator(np.random.PCG64([config.seed, 12]))

    def add(split: str, identity: int, camera: int, shot: int) -> None:
        splits[split].append(
            Picture(
                config.seed, identity, camera, shot, config.image_size,
                square=True, occlusion=config.occlusion, cameras=SURVEILLANCE, quality=config.jpeg_quality,
            )
        )  # fmt: skip

    for identity in range(config.train_identities):
        order = rng.permutation(config.cameras).tolist()
        for image in range(config.train_images):
            add("train", identity, order[image % config.cameras], image // config.cameras)
    first = config.train_identities
    for identity in range(first, first + config.test_identities + config.distractor_identities):
        seen_by = rng.permutation(config.cameras)[: config.test_cameras].tolist()
        for camera in sorted(seen_by):
            for shot in range(config.gallery_images):
                add("gallery", identity, camera, shot)
        if identity < first + config.test_identities:
            for camera in sorted(seen_by[: config.queries]):
                add("query", identity, camera, config.gallery_images)
    return splits


class Builder(tfds.core.ShardBasedBuilder):
    """Renders synthetic vehicles; needs no download and no TensorFlow.

    Record n of a split is the n-th picture of `plan_splits`. (`tfds.core.GeneratorBasedBuilder` would put more
    than 1 GB of ordered records through one file that it reads with TensorFlow; `ShardBasedBuilder` streams.)

    Args:
        file_format: The record format; only array_record works without TensorFlow.
        **kwargs: Of `tfds.core.DatasetBuilder` (data_dir, config, version).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[SyntheticVehiclesConfig]] = [
        SyntheticVehiclesConfig(
            name="demo", description="The demo's size: minutes of training on two cores."
        ),
        SyntheticVehiclesConfig(name="none", description="The demo without occluders.", occlusion="none"),
        SyntheticVehiclesConfig(
            name="light", description="The demo, 5-15 % of each vehicle's box hidden.", occlusion="light"
        ),
        SyntheticVehiclesConfig(
            name="heavy", description="The demo, 20-45 % of each vehicle's box hidden.", occlusion="heavy"
        ),
    ]
    DEFAULT_CONFIG_NAME = "demo"

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any) -> None:
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Rendered vehicles before cameras that differ in viewpoint, light and sensor. Many share body "
                "type and paint, so that only fine marks tell them apart."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        encoding_format="jpeg", doc="the picture, a square RGB JPEG"
                    ),
                    "id": tfds.features.Scalar(np.int64, doc="the vehicle's identity"),
                    "camera": tfds.features.Scalar(np.int64, doc="the camera, from 0"),
                    "name": tfds.features.Text(doc="identity, camera and shot as a file name"),
                    "color": tfds.features.Text(doc="the vehicle's colour, one of VeRi-776's ten"),
                    "type": tfds.features.Text(doc="the vehicle's body type"),
                }
            ),
            license="The pictures are generated; they carry the licence of this package.",
            disable_shuffling=True,  # record n is picture n of the plan
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, Example]]]]]:
        splits = plan_splits(self.builder_config)
        self._progress = progress_bar(sum(map(len, splits.values())), f"rendering {self.name}")
        return {
            split: [
                functools.partial(self._generate_examples, pictures[start : start + _SHARD_PICTURES], start)
                for start in range(0, len(pictures), _SHARD_PICTURES)
            ]
            for split, pictures in splits.items()
        }

    def _generate_examples(self, pictures: list[Picture], start: int) -> Iterator[tuple[int, Example]]:
        """Renders the pictures of one shard on all cores; yields (index in the split, example) in order."""
        chunks = list(chunks_by_identity(pictures))
        files = take_all(chunks, self.builder_config.workers or default_workers())
        for index, (picture, data) in enumerate(
            zip(pictures, itertools.chain.from_iterable(files), strict=True), start
        ):
            self._progress.update()
            vehicle = describe(picture.seed, picture.identity)
            yield (
                index,
                {
                    "image": data,
                    "id": picture.identity,
                    "camera": picture.camera,
                    "name": f"{picture.identity:05d}_c{picture.camera:03d}_{picture.shot:03d}.jpg",
                    "color": vehicle.color,
                    "type": vehicle.body,
                },
            )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Writes the shards into TFDS's temporary folder, which is renamed only when this returns."""
        try:
            super()._download_and_prepare(dl_manager, download_config)
        finally:
            if hasattr(self, "_progress"):
                self._progress.close()
