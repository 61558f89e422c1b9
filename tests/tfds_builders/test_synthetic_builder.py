"""The TFDS builder of the synthetic vehicles: round trip, order, splits, no TensorFlow."""

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfds_builders.synthetic_vehicles import Builder, SyntheticVehiclesConfig
from tfds_builders.synthetic_vehicles.identity import describe
from tfds_builders.synthetic_vehicles.pictures import take
from tfds_builders.synthetic_vehicles.render import render
from tfds_builders.synthetic_vehicles.synthetic_vehicles_dataset_builder import plan_splits

_ROOT = Path(__file__).resolve().parents[2]


def _tiny(workers: int = 1) -> SyntheticVehiclesConfig:
    return SyntheticVehiclesConfig(
        name="tiny", image_size=32, cameras=4, train_identities=4, train_images=80, test_identities=3,
        test_cameras=3, queries=2, gallery_images=2, distractor_identities=2, workers=workers,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    builder = Builder(config=_tiny(), data_dir=tmp_path_factory.mktemp("data"))
    builder.download_and_prepare()
    return builder


def test_round_trip_in_the_plans_order(built: Builder) -> None:
    for split, pictures in plan_splits(_tiny()).items():
        source = built.as_data_source(split=split)
        assert len(source) == len(pictures) > 0
        for index, picture in enumerate(pictures):
            example = source[index]
            assert example["id"] == picture.identity
            assert example["camera"] == picture.camera
            vehicle = describe(picture.seed, picture.identity)
            assert example["color"].decode() == vehicle.color
            assert example["type"].decode() == vehicle.body
            encoded = np.frombuffer(take(picture), np.uint8)
            decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
            np.testing.assert_array_equal(example["image"], decoded)


def test_images_are_the_renders_up_to_jpeg(built: Builder) -> None:
    picture = plan_splits(_tiny())["query"][1]
    image = built.as_data_source(split="query")[1]["image"]
    rendered = render(
        picture.seed, picture.identity, picture.camera, picture.shot, size=32, occlusion="light"
    )
    assert np.abs(image.astype(int) - rendered.astype(int)).mean() < 8


def test_feature_types(built: Builder) -> None:
    features = built.info.features
    assert {"image", "id", "camera", "name", "color", "type"} == set(features)
    assert features["id"].np_dtype == features["camera"].np_dtype == np.int64
    assert features["image"].encoding_format == "jpeg"


def test_names_are_unique_within_a_split(built: Builder) -> None:
    for split in ("train", "query", "gallery"):
        names = [example["name"] for example in built.as_data_source(split=split)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("config", [*Builder.BUILDER_CONFIGS, _tiny()], ids=lambda config: config.name)
def test_splits_are_a_re_identification_protocol(config: SyntheticVehiclesConfig) -> None:
    splits = plan_splits(config)
    ids = {split: {picture.identity for picture in pictures} for split, pictures in splits.items()}
    assert len(ids["train"]) == config.train_identities
    assert len(splits["train"]) == config.train_identities * config.train_images
    assert len(ids["query"]) == config.test_identities
    assert not ids["train"] & ids["gallery"]
    assert ids["query"] < ids["gallery"]
    gallery = {(picture.identity, picture.camera, picture.shot) for picture in splits["gallery"]}
    cameras: dict[int, set[int]] = {}
    for identity, camera, _ in gallery:
        cameras.setdefault(identity, set()).add(camera)
    for picture in splits["query"]:
        assert (picture.identity, picture.camera, picture.shot) not in gallery
        assert cameras[picture.identity] - {picture.camera}  # at least one hit counts
    assert {picture.occlusion for pictures in splits.values() for picture in pictures} == {config.occlusion}


def test_found_by_name_without_tensorflow_and_with_worker_processes(built: Builder, tmp_path: Path) -> None:
    program = tmp_path / "read.py"
    program.write_text(
        "import sys\n"
        "def main():\n"
        "    import hashlib\n"
        "    import tensorflow_datasets as tfds\n"
        "    import tfds_builders.synthetic_vehicles as synthetic\n"
        "    config = synthetic.SyntheticVehiclesConfig(name='tiny', image_size=32, cameras=4,\n"
        "        train_identities=4, train_images=80, test_identities=3, test_cameras=3, queries=2,\n"
        "        gallery_images=2, distractor_identities=2, workers=2)\n"
        "    synthetic.Builder(config=config, data_dir=sys.argv[1]).download_and_prepare()\n"
        "    for split in ('train', 'query', 'gallery'):\n"
        "        source = tfds.data_source('synthetic_vehicles', split=split, data_dir=sys.argv[1],\n"
        "            builder_kwargs={'config': config})\n"
        "        for example in source:\n"
        "            print(split, example['name'].decode(), hashlib.sha256(example['image']).hexdigest())\n"
        "    assert not [name for name in sys.modules if name.split('.')[0] == 'tensorflow']\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    result = subprocess.run(
        [sys.executable, program, tmp_path / "data"],
        cwd=_ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(_ROOT), "PATH": ""},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    expected = [
        f"{split} {example['name'].decode()} {hashlib.sha256(example['image']).hexdigest()}"
        for split in ("train", "query", "gallery")
        for example in built.as_data_source(split=split)
    ]
    assert [line for line in result.stdout.splitlines() if ".jpg " in line] == expected


def test_default_config_is_the_demo() -> None:
    assert tfds.builder_cls("synthetic_vehicles") is Builder
    assert Builder.default_builder_config.name == "demo"
    assert {config.name for config in Builder.BUILDER_CONFIGS} >= {"none", "light", "heavy"}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"queries": 6}, r"queries \(6\) must be at most test_cameras"),
        ({"test_cameras": 20}, r"test_cameras \(20\), which must be at most cameras \(12\)"),
        ({"occlusion": "some"}, "occlusion is 'some'; expected one of none, light, heavy"),
        ({"image_size": 4}, "image_size is 4; expected 16 or more"),
    ],
)
def test_configs_that_cannot_be_met_are_refused(numbers: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticVehiclesConfig(name="wrong", **numbers)
