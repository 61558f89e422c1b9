"""Batches: the same from any starting step, number of processes and kind of worker; every image once in evaluation."""

import cv2
import numpy as np
import pytest

from mfg_jax.data import loader, sampling
from mfg_jax.data.images import decode, resize
from mfg_jax.data.source import Split


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


def _train(split: Split, **changes: int) -> list[loader.Batch]:
    settings = {
        "seed": 0,
        "first_step": 0,
        "last_step": 6,
        "batch_size": 8,
        "images_per_identity": 2,
        "height": 16,
        "width": 24,
    }
    return list(loader.train_batches(split, sampling.index_identities(split.ids), **(settings | changes)))


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


def test_decoding_is_rgb_and_stretches_to_the_size():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :, 0] = 250  # red
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    np.testing.assert_array_equal(decode(encoded, 20, 20), np.full((20, 20, 3), (250, 0, 0), np.uint8))


def test_shrinking_averages():
    checkered = np.zeros((8, 8, 3), np.uint8)
    checkered[::2, ::2] = checkered[1::2, 1::2] = 200
    np.testing.assert_array_equal(resize(checkered, 4, 4), np.full((4, 4, 3), 100, np.uint8))


def test_bytes_that_are_no_image_are_an_error():
    with pytest.raises(ValueError, match="not an image"):
        decode(b"no image", 4, 4)
