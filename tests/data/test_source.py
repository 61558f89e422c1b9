"""Splits of a prepared dataset: what was put in comes out, and damage on disk is named."""

import dataclasses
import pathlib
import pickle

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mfg_jax.data import loader, source
from mfg_jax.errors import UserError


@pytest.fixture
def builder(tmp_path: pathlib.Path) -> source.Builder:
    """Twelve pictures of three vehicles, as a prepared dataset of its own in each test, which may damage it."""
    rng = np.random.default_rng(0)
    for identity in range(3):
        folder = tmp_path / f"release/train/{identity}"
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            (folder / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return source.open_dataset("vehicle_csv", data_dir=tmp_path / "prepared", manual_dir=tmp_path / "release")


def test_labels_and_images_are_those_of_the_release(builder, tmp_path):
    split = source.open_split(builder, "train")
    whole = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(split) == len(whole) == 12
    images = split.images.__getitems__(list(range(12)))
    for index, record in enumerate(whole):
        assert split.ids[index] == record["id"]
        assert split.names[index] == record["name"].decode()
        assert split.encoded(index) == images[index]["image"] == record["image"]
        assert record["image"] == (tmp_path / "release" / split.names[index]).read_bytes()
    assert split.images[np.int64(3)] == images[3]


def test_images_travel_to_worker_processes(builder):
    split = source.open_split(builder, "train")
    copy = pickle.loads(pickle.dumps(split.images))
    assert copy[5] == split.images[5]


def test_a_split_that_is_not_there_is_named(builder):
    with pytest.raises(UserError, match="no split 'query'; it has train"):
        source.open_split(builder, "query")


def test_damage_on_disk_is_named(builder):
    """Both when the labels are read and when it comes later, in the middle of training."""
    split = source.open_split(builder, "train")
    # A copy opens the file anew; what was read once may be held in a buffer.
    reopened = dataclasses.replace(split, images=pickle.loads(pickle.dumps(split.images)))
    path = next(pathlib.Path(builder.data_path).glob("*train*"))
    data = bytearray(path.read_bytes())
    place = len(data) // 2
    data[place : place + 50] = bytes(50)
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"Record \d+ of split 'train' of vehicle_csv.* cannot be read"
    ) as error:
        source.open_split(builder, "train")
    index = int(str(error.value).split()[1])
    name = split.names[index]
    with pytest.raises(UserError, match=rf"{name} \(split 'train', index {index}\) cannot be read"):
        list(loader.image_batches(reopened, batch_size=4, height=8, width=8))
