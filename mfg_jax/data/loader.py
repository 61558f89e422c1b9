"""Batches of decoded images, made ahead of the step that needs them by Grain's threads or worker processes.

Hosts only decode. What is in a batch is a function of its number alone (`mfg_jax.data.sampling`), so an iterator can
start at any step.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from typing import Any, TypeVar

import grain
import numpy as np
from absl import flags

from mfg_jax.data import sampling
from mfg_jax.data.images import decode
from mfg_jax.data.source import BUILD_AGAIN, Split, find_unreadable
from mfg_jax.errors import UserError

Batch = dict[str, np.ndarray]
Placed = TypeVar("Placed")

_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM)


def train_batches(
    split: Split,
    index: sampling.IdentityIndex,
    *,
    seed: int,
    first_step: int,
    last_step: int,
    batch_size: int,
    images_per_identity: int,
    height: int,
    width: int,
    process: int = 0,
    processes: int = 1,
    threads: int = 2,
    workers: int = 0,
) -> Iterator[Batch]:
    """This process's share of the batches of steps `first_step` to `last_step` (exclusive).

    Args:
        split: the training images.
        index: their identities.
        seed: of the run.
        first_step: step of the first batch.
        last_step: the step after the last batch.
        batch_size: images of the global batch.
        images_per_identity: K of P x K sampling; it divides `batch_size`.
        height: of the images, in pixels.
        width: of the images, in pixels.
        process: number of this process.
        processes: how many share the batch; a divisor of `batch_size`.
        threads: decoding threads, in this process or in each worker.
        workers: decoding processes; 0 to decode in this one.

    Yields:
        `image` `(batch_size / processes, height, width, 3)` uint8, `label` `(batch_size / processes,)` int32, `index`
        likewise int64: the images' places in the split.

    Raises:
        UserError: a record cannot be read or decoded; the message names the image.
    """
    share = batch_size // processes

    def load(step: int) -> Batch:
        indices = sampling.batch_indices(
            index,
            seed=seed,
            step=step,
            identities_per_batch=batch_size // images_per_identity,
            images_per_identity=images_per_identity,
        )[process * share : (process + 1) * share]
        return {
            "image": _decode_all(split, indices, height, width),
            "label": index.labels[indices],
            "index": indices,
        }

    return _prefetched(load, first_step, last_step, threads, workers)


def image_batches(
    split: Split,
    *,
    batch_size: int,
    height: int,
    width: int,
    process: int = 0,
    processes: int = 1,
    threads: int = 2,
    workers: int = 0,
) -> Iterator[np.ndarray]:
    """This process's share of all images of a split, in order, in batches of one size.

    The last batch is filled up with black images: cut the results to `len(split)`.

    Args:
        split: the images.
        batch_size: images of the global batch; a multiple of `processes`.
        height: of the images, in pixels.
        width: of the images, in pixels.
        process: number of this process.
        processes: how many share each batch.
        threads: decoding threads, in this process or in each worker.
        workers: decoding processes; 0 to decode in this one.

    Yields:
        `(batch_size / processes, height, width, 3)` uint8.

    Raises:
        UserError: a record cannot be read or decoded; the message names the image.
    """
    share = batch_size // processes

    def load(number: int) -> np.ndarray:
        start = number * batch_size + process * share
        images = np.zeros((share, height, width, 3), np.uint8)
        indices = np.arange(start, min(start + share, len(split)))
        if len(indices):
            images[: len(indices)] = _decode_all(split, indices, height, width)
        return images

    return _prefetched(load, 0, -(-len(split) // batch_size), threads, workers)


def placed_ahead(
    batches: Iterable[Batch], place: Callable[[Batch], Placed]
) -> Iterator[tuple[Batch, Placed]]:
    """Places each batch on the device one step early, so that its transfer goes on while the step before computes.

    Args:
        batches: on the host.
        place: starts the transfer of a batch, and does not wait for its end.

    Yields:
        Each batch with its placed form.
    """
    ready: tuple[Batch, Placed] | None = None
    for batch in batches:
        following = batch, place(batch)
        if ready is not None:
            yield ready
        ready = following
    if ready is not None:
        yield ready


def _decode_all(split: Split, indices: np.ndarray, height: int, width: int) -> np.ndarray:
    images = np.empty((len(indices), height, width, 3), np.uint8)
    for row, record in enumerate(_read(split, indices)):
        try:
            images[row] = decode(record["image"], height, width)
        except ValueError as error:
            raise UserError(
                f"{_describe(split, indices[row])} cannot be decoded. {error} {BUILD_AGAIN}"
            ) from error
    return images


def _read(split: Split, indices: np.ndarray) -> Sequence[dict[str, bytes]]:
    try:
        return split.images.__getitems__(indices.tolist())
    except Exception as error:
        unreadable = find_unreadable(split.images, indices.tolist())
        if unreadable is None:
            raise
        index, reason = unreadable
        raise UserError(f"{_describe(split, index)} cannot be read: {reason} {BUILD_AGAIN}") from error


def _describe(split: Split, index: int) -> str:
    return f"The image {split.names[index]} (split {split.name!r}, index {index})"


def _prefetched(
    load: Callable[[int], Any], first: int, last: int, threads: int, workers: int
) -> Iterator[Any]:
    """Calls `load` with `first` to `last - 1`, ahead of time, and yields the results in order."""
    dataset = grain.MapDataset.range(first, last).map(load)
    # A batch or two ahead for each thread: batches are large, and a step takes longer than a batch.
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if workers:
        # Grain's worker processes read absl flags, which notebooks and tests never parse.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _prepare_worker)
        return _from_workers(batches)
    return iter(batches)


def _from_workers(batches: grain.IterDataset) -> Iterator[Any]:
    """Yields what worker processes make, which are deaf to signals from their first moment on.

    Ctrl-C and many a SIGTERM go to the whole process group. A process inherits blocked signals from the thread that
    starts it, and Grain's threads, which start the workers at the first batch, from the one that asks for it.
    `_prepare_worker` alone would come seconds of imports too late.
    """
    # Python starts this process before the first worker, and would unblock the signals for it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        iterator = iter(batches)
        first = next(iterator, None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if first is not None:
        yield first
        yield from iterator


def _prepare_worker(number: int, count: int) -> None:
    """Runs first in worker `number` of `count`: it works for as long as its parent lives, whatever signal comes.

    The parent decides what a signal means, and may need batches to finish its step.
    """
    for ignored in _NOT_FOR_WORKERS:
        signal.signal(ignored, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent() -> None:
    """Waits for the parent's end, a SIGKILL included, which leaves it no time to stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("This is not a worker process.")
    connection.wait([parent.sentinel])
    os._exit(1)
