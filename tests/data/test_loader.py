"""Batches: the same from any starting step, number of processes and kind of worker; every image once in evaluation."""

import dataclasses

import cv2
import numpy as np
import pytest

from mfg_jax.data import loader, sampling
from mfg_jax.data.source import Split
from mfg_jax.errors import UserError


class _Images:
    """Random access to encoded images, as a TFDS data source gives it."""

    def __init__(self, encoded: list[bytes]):
        self._encoded = encoded

    def __getitem__(self, index: int) -> dict[str, bytes]:
        return {"image": self._encoded[index]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, bytes]]:
        return [self[index] for index in indices]


@pytest.fixture(scope="module")
def split() -> Split:
    """29 images of five identities, of different sizes, each of one grey that tells which it is."""
    encoded = []
    for index in range(29):
        image = np.full((20 + index, 30, 3), 8 * index + 4, np.uint8)
        encoded.append(cv2.imencode(".png", image)[1].tobytes())
    ids = np.arange(29) % 5
    return Split("train", ids, np.zeros(29, int), [f"{i}.png" for i in range(29)], _Images(encoded))


_SETTINGS = {
    "seed": 0,
    "first_step": 0,
    "last_step": 6,
    "batch_size": 8,
    "images_per_identity": 2,
    "height": 16,
    "width": 24,
}


def _train(split: Split, **changes: int) -> list[loader.Batch]:
    return list(loader.train_batches(split, sampling.index_identities(split.ids), **(_SETTINGS | changes)))


def _assert_equal(left: list[loader.Batch], right: list[loader.Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_images_and_labels_belong_together(split):
    for batch in _train(split):
        assert batch["image"].shape == (8, 16, 24, 3)
        assert batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], 8 * batch["index"] + 4)
        np.testing.assert_array_equal(batch["label"], split.ids[batch["index"]])


def test_a_run_can_start_at_any_step(split):
    whole = _train(split)
    for first in (1, 4):
        _assert_equal(_train(split, first_step=first), whole[first:])


def test_processes_share_a_batch_without_overlap(split):
    whole = _train(split)
    shares = [_train(split, process=process, processes=4) for process in range(4)]
    joined = [
        {name: np.concatenate([share[step][name] for share in shares]) for name in whole[0]}
        for step in range(len(whole))
    ]
    _assert_equal(joined, whole)


def test_threads_do_not_change_the_order(split):
    _assert_equal(_train(split, threads=5), _train(split, threads=1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Grain's worker processes have warnings of their own
def test_worker_processes_give_what_threads_give(split):
    _assert_equal(_train(split, workers=2), _train(split))


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_sees_every_image_once_and_in_order(split, processes):
    shares = [
        list(
            loader.image_batches(
                split, batch_size=8, height=16, width=24, process=process, processes=processes
            )
        )
        for process in range(processes)
    ]
    images = np.concatenate([np.concatenate(batches) for batches in zip(*shares, strict=True)])
    assert images.shape == (32, 16, 24, 3)
    np.testing.assert_array_equal(images[:29, 0, 0, 0], 8 * np.arange(29) + 4)
    assert not images[29:].any()


class _DamagedImages(_Images):
    """One record whose file is damaged: reading it fails, alone or among others, as TFDS does it."""

    def __getitem__(self, index: int) -> dict[str, bytes]:
        if index == 17:
            raise RuntimeError("data hash mismatch")
        return super().__getitem__(index)


def _damaged(split: Split, way: str) -> Split:
    """The split with picture 17 damaged."""
    encoded = [split.encoded(index) for index in range(len(split))]
    if way == "record":
        return dataclasses.replace(split, images=_DamagedImages(encoded))
    jpeg = cv2.imencode(".jpg", np.full((40, 30, 3), 90, np.uint8))[1].tobytes()
    encoded[17] = {"no image": b"nothing", "empty": b"", "cut off": jpeg[:-20]}[way]
    return dataclasses.replace(split, images=_Images(encoded))


@pytest.mark.parametrize("way", ["no image", "empty", "cut off", "record"])
def test_a_bad_picture_is_named_and_what_comes_before_it_is_not_lost(split, way):
    whole = _train(split)
    first_bad = next(number for number, batch in enumerate(whole) if 17 in batch["index"])
    assert first_bad > 0
    batches = loader.train_batches(
        _damaged(split, way),
        sampling.index_identities(split.ids),
        **_SETTINGS,
    )
    got = []
    with pytest.raises(UserError, match=r"17\.png \(split 'train', index 17\)"):
        got.extend(batches)
    _assert_equal(got, whole[:first_bad])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Grain's worker processes have warnings of their own
def test_a_bad_picture_is_named_by_worker_processes_too(split):
    with pytest.raises(UserError, match=r"17\.png \(split 'train', index 17\)"):
        _train(_damaged(split, "no image"), workers=2)


def test_a_fault_that_is_not_a_records_own_is_not_blamed_on_one(split):
    class Flaky(_Images):
        def __getitems__(self, indices: list[int]) -> list[dict[str, bytes]]:
            raise OSError("the network is down")

    images = Flaky([split.encoded(index) for index in range(len(split))])
    with pytest.raises(OSError, match="the network is down"):
        _train(dataclasses.replace(split, images=images))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_batches_are_placed_in_order_and_one_step_ahead(count):
    placed: list[int] = []

    def place(batch: int) -> int:
        placed.append(batch)
        return -batch

    for step, pair in enumerate(loader.placed_ahead(range(count), place)):
        assert pair == (step, -step)
        assert placed == list(range(min(step + 2, count)))
    assert placed == list(range(count))
