"""A small network to train, and a small release to train it on: what tests of the command line start from."""

import fcntl
import pathlib

from tfds_builders.synthetic_vehicles import write_release

NETWORK = {"depth": 10, "width": 8, "stem_stride": 2, "head_width": 16}
OPTIONS = [
    *(f"--config.model.{name}={value}" for name, value in NETWORK.items()),
    "--config.model.granularities=(1,2)",
    "--config.data.height=32",
    "--config.data.width=32",
    "--config.train.log_every_steps=1",
]


def write_shared_release(folder: pathlib.Path) -> pathlib.Path:
    """Writes `folder/VRIC`, of the official form and a hundredth of the official size, unless another process has."""
    release = folder / "VRIC"
    with (folder / "VRIC.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not release.exists():
            arguments = ["--format=vric", f"--out={folder / 'VRIC.partial'}", "--scale=0.01"]
            assert write_release.main(arguments) == 0
            (folder / "VRIC.partial").rename(release)
    return release
