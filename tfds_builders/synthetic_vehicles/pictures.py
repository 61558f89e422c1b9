"""Which picture to take, and taking many of them on all cores, in order."""

import collections
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import cv2
import numpy as np

from tfds_builders.errors import DatasetError
from tfds_builders.synthetic_vehicles.camera import CameraStyle
from tfds_builders.synthetic_vehicles.render import box_aspect, render

# Starting processes takes about a second, in which one core takes this many pictures.
_FEW_PICTURES = 300
_CHUNKS_AHEAD = 4  # chunks in flight per worker: keeps workers busy and memory small


@dataclasses.dataclass(frozen=True)
class Picture:
    """The arguments of one picture; the picture is a pure function of them.

    Attributes:
        seed: Of the world.
        identity: Which vehicle.
        camera: Which camera.
        shot: Which passage before the camera.
        side: Side in pixels; with `square` off, the geometric mean of height and width.
        square: Whether the picture is square, or follows the shape of the vehicle's box.
        occlusion: A level of `occluders.OCCLUSION_LEVELS`.
        cameras: The range the cameras are drawn from.
        quality: JPEG quality, 1-100.
    """

    seed: int
    identity: int
    camera: int
    shot: int
    side: int
    square: bool
    occlusion: str
    cameras: CameraStyle
    quality: int


# A detector's crop is never a thin strip, whatever the vehicle.
_ASPECT_RANGE = (0.6, 2.0)


def take(picture: Picture) -> bytes:
    """Renders a picture and returns it as a JPEG file."""
    seed, identity, camera, shot = picture.seed, picture.identity, picture.camera, picture.shot
    size: int | tuple[int, int] = picture.side
    if not picture.square:
        aspect = box_aspect(seed, identity, camera, shot, cameras=picture.cameras)
        aspect = float(np.clip(aspect, *_ASPECT_RANGE))
        size = (round(picture.side / aspect**0.5), round(picture.side * aspect**0.5))
    image = render(
        seed, identity, camera, shot, size=size, occlusion=picture.occlusion, cameras=picture.cameras
    )
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, picture.quality])
    assert encoded
    return data.tobytes()


def take_chunk(pictures: list[Picture]) -> list[bytes]:
    """Takes pictures one after the other."""
    return [take(picture) for picture in pictures]


def chunks_by_identity(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    """Groups consecutive pictures of one identity, whose mesh is then built once."""
    for _, group in itertools.groupby(pictures, key=lambda picture: (picture.seed, picture.identity)):
        yield list(group)


def default_workers() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """Makes a worker process use one core, and end when its parent ends, even if that one was killed."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def take_all(chunks: Sequence[list[Picture]], workers: int) -> Iterator[list[bytes]]:
    """Takes chunks of pictures in worker processes; results come in the order of the chunks.

    Args:
        chunks: Lists of pictures; best one identity each.
        workers: Number of processes; with 1, or with few pictures, this process does the work.

    Yields:
        For each chunk, its JPEG files.

    Raises:
        DatasetError: When a worker process dies.
    """
    if workers <= 1 or sum(map(len, chunks)) <= _FEW_PICTURES:
        yield from map(take_chunk, chunks)
        return
    # Spawned, not forked: the parent may hold threads (JAX, TFDS), and a fork of those may deadlock.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        waiting: collections.deque[concurrent.futures.Future[list[bytes]]] = collections.deque()
        remaining = iter(chunks)
        try:
            for chunk in itertools.islice(remaining, workers * _CHUNKS_AHEAD):
                waiting.append(pool.submit(take_chunk, chunk))
            while waiting:
                result = waiting.popleft().result()
                for chunk in itertools.islice(remaining, 1):
                    waiting.append(pool.submit(take_chunk, chunk))
                yield result
        except BrokenProcessPool as error:
            raise DatasetError(
                "A process that renders synthetic vehicles died. Either the machine ran out of memory, or this "
                "runs from a script that lacks `if __name__ == '__main__':` around its main code, which Python "
                "needs to start worker processes. Repair that, or ask for one worker."
            ) from error
        finally:
            for future in waiting:
                future.cancel()
