"""Do memory, file handles and threads stay flat over a long run? The whole training loop, with a tiny network.

    python -m benchmarks.leaks [--steps=20000]

Every second of it is the real thing: input, steps, metrics, a save every 500 steps and an evaluation about every 5,000.
"""

import argparse
import itertools
import pathlib
import resource
import tempfile
import threading
import time

import numpy as np
from ml_collections import ConfigDict

from benchmarks import kills
from configs import vric
from mfg_jax import train
from mfg_jax.metric_writer import read_metrics

_SELF = pathlib.Path("/proc/self")


def resident_mebibytes() -> float:
    """The memory this process holds; on Linux."""
    return int((_SELF / "statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def configure(folder: pathlib.Path, steps: int) -> ConfigDict:
    """A tiny network on a hundredth of VRIC's size."""
    config = vric.get_config()
    config.data.manual_dir = str(kills.write_small_release(folder))
    config.data.data_dir = str(folder / "data")
    config.data.height = config.data.width = 16
    config.model.update({"depth": 10, "width": 4, "stem_stride": 2, "head_width": 8, "granularities": (1, 2)})
    config.train.update({"batch_size": 8, "epochs": 100_000, "max_steps": steps, "log_every_steps": 100})
    config.checkpoint.every_steps = 500
    config.evaluate.every_epochs = 75
    return config


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    rows: list[tuple[int, float, int, int]] = []
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = configure(folder, options.steps)

        def watch() -> None:
            while not ended.wait(0.5):
                lines = read_metrics(folder / "run")
                step = lines[-1]["step"] if lines else 0
                handles, threads = (len(list((_SELF / kind).iterdir())) for kind in ("fd", "task"))
                rows.append((step, resident_mebibytes(), handles, threads))

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.monotonic()
        try:
            train.train_and_evaluate(config, folder / "run")
        finally:
            ended.set()
            watcher.join()
    print(f"{options.steps:,} steps in {time.monotonic() - begun:.0f} s")
    print(f"{'steps':>16}{'MiB':>10}{'handles':>10}{'threads':>10}   (median of the samples within)")
    edges = np.linspace(0, options.steps, 11).astype(int)
    samples = np.array(rows)
    for low, high in itertools.pairwise(edges):
        within = samples[(samples[:, 0] > low) & (samples[:, 0] <= high)]
        if len(within):
            memory, handles, threads = np.median(within[:, 1:], axis=0)
            print(f"{low:>7,} - {high:>6,}{memory:>10.0f}{handles:>10.0f}{threads:>10.0f}")


if __name__ == "__main__":
    main()
