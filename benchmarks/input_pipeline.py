"""What does the input cost, stage by stage, beside PyTorch's DataLoader, and to a training step?

    python -m benchmarks.input_pipeline [--part=stages|decoders|peer|grain|loop|memory] [--threads=2] [--rounds=5]
        [--pictures=VRIC|VeRi|VehicleID|demo] [--network=demo|full] [--data_dir=DIR]

`stages`: images per second of one thread in each stage. `decoders`: of those JPEG decoders that are installed (OpenCV,
Pillow, simplejpeg, imagecodecs), pictures in full. `peer`: of the whole loader and of a DataLoader that does the
same work, with as many worker processes as we have threads (needs requirements-parity.txt). `grain`: what handing a
batch from thread to thread costs. `loop`: the share of training steps that goes into waiting for input. `memory`: of
the process, after few and after many batches. Without `--part`, all of them.

The pictures are drawn with the sizes of the real releases' crops, and built into a dataset as one's own would be.
"""

import argparse
import functools
import importlib.util
import io
import itertools
import os
import pathlib
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.retrieval_data import interleaved_times
from configs import default, synthetic, vric
from mfg_jax import parallel
from mfg_jax.data import loader, sampling, source
from mfg_jax.data.augment import augment, image_keys
from mfg_jax.data.images import decode_reduced, resize
from mfg_jax.models import MFGNet
from mfg_jax.optimizer import make_optimizer
from mfg_jax.train_step import LossWeights, create_train_state, make_train_step
from tfds_builders.synthetic_vehicles.camera import LOW_RESOLUTION, SURVEILLANCE
from tfds_builders.synthetic_vehicles.pictures import Picture, chunks_by_identity, take_all

# Geometric mean of height and width in pixels, from and to, and how many pictures: about 4 MB of each.
SIZES = {
    "VRIC 30-300": (30, 300, 256),
    "VeRi 200-500": (200, 500, 128),
    "VehicleID 300-1000": (300, 1000, 64),
}
DEMO = "demo 96"
PARTS = ("stages", "decoders", "peer", "grain", "loop", "memory")
_PER_IDENTITY = 8
_IMAGES_PER_IDENTITY = 4
_BATCH_SIZE = 32
_HOST_STAGES = ("indices", "read", "decode", "resize", "batch")


def draw_split(name: str, folder: pathlib.Path) -> source.Split:
    """Draws the pictures of a row of `SIZES`, and builds a dataset of them."""
    smallest, largest, count = SIZES[name]
    cameras = LOW_RESOLUTION if smallest < 100 else SURVEILLANCE
    sides = np.random.default_rng(0).permutation(np.linspace(smallest, largest, count).round()).astype(int)
    pictures = [
        Picture(0, number // _PER_IDENTITY, number % 20, number, side, False, "light", cameras, 90)
        for number, side in enumerate(sides.tolist())
    ]
    encoded = itertools.chain.from_iterable(take_all(list(chunks_by_identity(pictures)), workers=1))
    for number, data in enumerate(encoded):
        path = folder / f"release/train/{number // _PER_IDENTITY}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    builder = source.open_dataset("vehicle_csv", data_dir=folder / "prepared", manual_dir=folder / "release")
    return source.open_split(builder, "train")


def batch_indices(index: sampling.IdentityIndex, step: int) -> np.ndarray:
    """The indices of a training batch, as the loader draws them."""
    return sampling.batch_indices(
        index,
        seed=0,
        step=step,
        identities_per_batch=_BATCH_SIZE // _IMAGES_PER_IDENTITY,
        images_per_identity=_IMAGES_PER_IDENTITY,
    )


def open_loader(split: source.Split, size: int, threads: int, workers: int = 0) -> Iterator[loader.Batch]:
    """Our loader, for as many steps as are asked for."""
    return loader.train_batches(
        split,
        sampling.index_identities(split.ids),
        seed=0,
        first_step=0,
        last_step=10**6,
        batch_size=_BATCH_SIZE,
        images_per_identity=_IMAGES_PER_IDENTITY,
        height=size,
        width=size,
        threads=threads,
        workers=workers,
    )


def stage_work(split: source.Split, size: int) -> tuple[dict[str, Callable[[], object]], int, float]:
    """Each stage by itself, on the pictures of a few batches.

    Returns:
        The stages, how many pictures each of them handles, and the mean size of a file in bytes.
    """
    index = sampling.index_identities(split.ids)
    steps = range(4)
    chosen = np.concatenate([batch_indices(index, step) for step in steps])
    encoded = [record["image"] for record in split.images.__getitems__(chosen.tolist())]
    decoded = [decode_reduced(data, size, size) for data in encoded]
    ready = [resize(image, size, size) for image in decoded]
    batch = np.stack(ready[:_BATCH_SIZE])
    mesh = parallel.make_mesh(jax.devices()[:1])
    placed = parallel.place_batch(batch, mesh)
    augmentation = dict(default.get_config().augment)

    @jax.jit
    def augmented(images: jax.Array, step: jax.Array) -> jax.Array:
        return augment(image_keys(0, step, jnp.int32(0), len(images)), images, **augmentation)

    def copy() -> None:
        out = np.empty((len(ready), size, size, 3), np.uint8)
        for row, image in enumerate(ready):
            out[row] = image

    work: dict[str, Callable[[], object]] = {
        "indices": lambda: [batch_indices(index, step) for step in steps],
        "read": lambda: split.images.__getitems__(chosen.tolist()),
        "decode": lambda: [decode_reduced(data, size, size) for data in encoded],
        "resize": lambda: [resize(image, size, size) for image in decoded],
        "batch": copy,
        "to device": lambda: [parallel.place_batch(batch, mesh).block_until_ready() for _ in steps],
        "augment": lambda: [augmented(placed, jnp.int32(step)).block_until_ready() for step in steps],
    }
    return work, len(chosen), sum(map(len, encoded)) / len(encoded)


def measure_stages(splits: dict[str, source.Split], sizes: Sequence[int], rounds: int) -> None:
    """Prints images per second of each stage, one thread, and of what the stages on the host take together."""
    print(f"\nimages/s by stage, one thread, batches of {_BATCH_SIZE} (best of {rounds})")
    heads = (*_HOST_STAGES, "to device", "augment", "host stages")
    print(f"{'pictures':<20}{'KB':>6}{'pixels':>8}" + "".join(f"{head:>12}" for head in heads))
    for (name, split), size in itertools.product(splits.items(), sizes):
        work, count, file_bytes = stage_work(split, size)
        seconds = {stage: min(times) for stage, times in interleaved_times(work, rounds).items()}
        host = sum(seconds[stage] for stage in _HOST_STAGES)
        rates = [count / value for value in (*seconds.values(), host)]
        row = f"{name:<20}{file_bytes / 1000:>6.1f}{size:>8}" + "".join(f"{rate:>12,.0f}" for rate in rates)
        print(row, flush=True)


def decoders() -> dict[str, Callable[[bytes], object]]:
    """Those that are installed, each giving `(H, W, 3)` RGB in full."""
    from PIL import Image

    found: dict[str, Callable[[bytes], object]] = {
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    if importlib.util.find_spec("simplejpeg"):
        found["simplejpeg"] = importlib.import_module("simplejpeg").decode_jpeg
    if importlib.util.find_spec("imagecodecs"):
        found["imagecodecs"] = importlib.import_module("imagecodecs").jpeg8_decode
    return found


def measure_decoders(splits: dict[str, source.Split], rounds: int) -> None:
    """Prints images per second of each decoder."""
    found = decoders()
    print(f"\nimages/s decoded in full, one thread (best of {rounds})")
    print(f"{'pictures':<20}" + "".join(f"{name:>13}" for name in found))
    for name, split in splits.items():
        encoded = [split.encoded(index) for index in range(min(len(split), 256))]
        work: dict[str, Callable[[], object]] = {
            decoder: functools.partial(lambda decode, data: [decode(x) for x in data], decode, encoded)
            for decoder, decode in found.items()
        }
        seconds = interleaved_times(work, rounds)
        rates = [len(encoded) / min(times) for times in seconds.values()]
        print(f"{name:<20}" + "".join(f"{rate:>13,.0f}" for rate in rates), flush=True)


class TorchPictures:
    """A map-style dataset for PyTorch's DataLoader that does our loader's work the usual way."""

    def __init__(self, split: source.Split, size: int, decoder: str):
        """`decoder` is "Pillow" or "OpenCV"."""
        self._images, self._size, self._decoder = split.images, size, decoder

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The pictures of a batch: the records read at once, as ours are."""
        import torch

        decode = self._pillow if self._decoder == "Pillow" else self._opencv
        return [torch.from_numpy(decode(record["image"])) for record in self._images.__getitems__(indices)]

    def _pillow(self, data: bytes) -> np.ndarray:
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.array(image.resize((self._size, self._size), Image.Resampling.BILINEAR))

    def _opencv(self, data: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        shrinks = min(image.shape[:2]) > self._size
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, (self._size, self._size), interpolation=method)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def open_torch(split: source.Split, size: int, workers: int, decoder: str) -> Iterator[Any]:
    """Batches of a DataLoader, for as long as they are asked for."""
    from torch.utils.data import DataLoader

    index = sampling.index_identities(split.ids)
    batches = [batch_indices(index, step).tolist() for step in range(256)]
    data = DataLoader(
        TorchPictures(split, size, decoder),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="spawn",  # JAX's threads may hold locks that a fork would copy
    )
    while True:
        yield from data


def take_rate(batches: Iterator[Any], count: int, skip: int) -> float:
    """Images per second of `count` batches, after those made while nobody was asking."""
    for _ in range(skip):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * _BATCH_SIZE / (time.perf_counter() - start)


def measure_peer(splits: dict[str, source.Split], sizes: Sequence[int], threads: int, rounds: int) -> None:
    """Prints the rates of our loader and of DataLoaders, and ours as multiples of theirs."""
    print(f"\nimages/s delivered, {threads} threads or worker processes (median of {rounds} turns)")
    heads = ("threads", "workers", "torch+Pillow", "torch+OpenCV", "of Pillow's", "of OpenCV's")
    print(f"{'pictures':<20}{'pixels':>8}" + "".join(f"{head:>14}" for head in heads))
    for (name, split), size in itertools.product(splits.items(), sizes):
        rates: list[list[float]] = [[], [], [], []]

        def measure(row: int, batches: Iterator[Any], rates: list[list[float]] = rates) -> None:
            # Both loaders hold up to twice as many batches ready as they have threads or workers.
            rates[row].append(take_rate(batches, count=24, skip=2 * threads + 2))

        workers = open_loader(split, size, 1, threads)
        pillow = open_torch(split, size, threads, "Pillow")
        opencv = open_torch(split, size, threads, "OpenCV")
        for _ in range(rounds):
            # A fresh one each turn: threads would go on filling the queue while another's turn begins.
            measure(0, open_loader(split, size, threads))
            for row, batches in enumerate((workers, pillow, opencv), start=1):
                measure(row, batches)
        middle = [statistics.median(row) for row in rates]
        ratios = [statistics.median(np.divide(rates[0], rates[row]).tolist()) for row in (2, 3)]
        print(
            f"{name:<20}{size:>8}"
            + "".join(f"{rate:>14,.0f}" for rate in middle)
            + "".join(f"{ratio:>14.2f}" for ratio in ratios),
            flush=True,
        )
        del workers, pillow, opencv


def measure_grain(threads: int, rounds: int) -> None:
    """Prints what Grain takes to hand over a batch that costs nothing to make."""
    batch = {"image": np.zeros((_BATCH_SIZE, 256, 256, 3), np.uint8)}

    def drain() -> None:
        for _ in loader._prefetched(lambda step: batch, 0, 2000, threads, 0):
            pass

    seconds = min(interleaved_times({"grain": drain}, rounds)["grain"])
    print(f"\nGrain hands over a ready batch in {seconds / 2000 * 1e6:.0f} us ({threads} threads)")


def measure_loop(config: ConfigDict, split: source.Split, threads: int, steps: int, rounds: int) -> None:
    """Prints the share of the training loop that waits for input, and what the input costs it in all."""
    mesh = parallel.make_mesh()
    index = sampling.index_identities(split.ids)
    optimizer = make_optimizer(
        config.optimizer.name, 1e-4, momentum=0.9, weight_decay=5e-4, clip_norm=config.optimizer.clip_norm
    )
    model = MFGNet(num_identities=index.num_identities, axis_name=parallel.AXIS, **config.model)
    height, width = config.data.height, config.data.width
    state = create_train_state(model, optimizer, seed=0, height=height, width=width)
    state = parallel.replicate(state, mesh)
    train_step = parallel.map_step(
        make_train_step(
            model,
            optimizer,
            seed=0,
            weights=LossWeights(**config.loss),
            augmentation=dict(config.augment),
        ),
        mesh,
    )

    def place(batch: loader.Batch) -> Any:
        return parallel.place_batch({name: batch[name] for name in ("image", "label")}, mesh)

    batches = loader.placed_ahead(
        loader.train_batches(
            split,
            index,
            seed=0,
            first_step=0,
            last_step=10**6,
            batch_size=config.train.batch_size,
            images_per_identity=config.train.images_per_identity,
            height=height,
            width=width,
            threads=threads,
        ),
        place,
    )
    _, fixed = next(batches)
    state, metrics = train_step(state, fixed)
    jax.block_until_ready(metrics)
    waits, loops, computes = [], [], []
    for _ in range(rounds):
        # The loader fills its queue while the other turn runs, so the first steps are not counted.
        waited = 0.0
        for step in range(-8, steps):
            if step == 0:
                waited, start = 0.0, time.perf_counter()
            asked = time.perf_counter()
            _, inputs = next(batches)
            waited += time.perf_counter() - asked
            state, metrics = train_step(state, inputs)
            jax.block_until_ready(metrics)  # so that all that `next` takes, the device stands still
        loops.append((time.perf_counter() - start) / steps)
        waits.append(waited / steps)
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = train_step(state, fixed)
            jax.block_until_ready(metrics)
        computes.append((time.perf_counter() - start) / steps)
    shares = [wait / loop for wait, loop in zip(waits, loops, strict=True)]
    costs = [loop / compute - 1 for loop, compute in zip(loops, computes, strict=True)]
    size = config.train.batch_size
    print(f"\ntraining on {jax.devices()[0].device_kind}, batch {size}, {height} px, {config.model.dtype}")
    print(
        f"a step with input         {statistics.median(loops) * 1e3:8.1f} ms   {size / min(loops):,.0f} images/s"
    )
    print(f"a step on one fixed batch {statistics.median(computes) * 1e3:8.1f} ms")
    print(
        f"waiting for input         {statistics.median(waits) * 1e3:8.2f} ms   {statistics.median(shares):.2%}"
    )
    print(
        f"input costs in all        {statistics.median(costs):+.1%} (decoding shares the cores where it can)"
    )


def resident() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure_memory(split: source.Split, threads: int) -> None:
    """Prints memory, threads and open files after few and after many batches."""
    batches = open_loader(split, 64, threads)
    print("\nbatches   resident MiB   threads   open files")
    for done in range(1, 8001):
        next(batches)
        if done in (250, 500, 1000, 2000, 4000, 8000):
            files = len(os.listdir("/proc/self/fd"))
            print(f"{done:>7}{resident():>15.1f}{threading.active_count():>10}{files:>13}", flush=True)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="may be given more than once")
    parser.add_argument(
        "--pictures", choices=[name.split()[0] for name in (*SIZES, DEMO)], action="append", help="likewise"
    )
    parser.add_argument("--threads", type=int, default=2, help="decoding threads; give the number of cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="of a turn of the training loop")
    parser.add_argument(
        "--network", choices=("demo", "full"), default="demo", help="full: ResNet-50, 256 px, bfloat16"
    )
    parser.add_argument("--data_dir", help="where the prepared demo dataset is or goes")
    options = parser.parse_args()
    parts = options.part or PARTS
    print(f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}, OpenCV {cv2.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        splits: dict[str, source.Split] = {}
        if not {"stages", "decoders", "peer"}.isdisjoint(parts) or options.network == "full":
            splits |= {name: draw_split(name, pathlib.Path(folder) / name[:4]) for name in SIZES}
        builder = source.open_dataset("synthetic_vehicles", data_dir=options.data_dir)
        splits[DEMO] = source.open_split(builder, "train")
        measured = {
            name: split
            for name, split in splits.items()
            if not options.pictures or name.split()[0] in options.pictures
        }
        if "stages" in parts:
            measure_stages(measured, (64, 256), options.rounds)
        if "decoders" in parts:
            measure_decoders(measured, options.rounds)
        if "peer" in parts:
            measure_peer(measured, (64, 256), options.threads, options.rounds)
        if "grain" in parts:
            measure_grain(options.threads, options.rounds)
        if "loop" in parts:
            config, pictures = synthetic.get_config(), DEMO
            if options.network == "full":
                config, pictures = vric.get_config(), next(iter(SIZES))
                config.model.dtype = "bfloat16"
            measure_loop(config, splits[pictures], options.threads, options.steps, options.rounds)
        if "memory" in parts:
            measure_memory(splits[DEMO], options.threads)


if __name__ == "__main__":
    main()
