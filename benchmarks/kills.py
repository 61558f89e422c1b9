"""Is a run that is killed again and again the run that nobody touched? SIGKILL at random moments, saves and starts
included; then final parameters, optimizer state, metrics and results are compared bit by bit.

    python -m benchmarks.kills [--kills=50] [--steps=1500] [--seed=0]

The network is tiny and the dataset a hundredth of VRIC's size: what is tried is the engine around them.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from mfg_jax import checkpoint
from mfg_jax.metric_writer import read_metrics
from tfds_builders.synthetic_vehicles import write_release

SETTINGS = (
    "--config.model.depth=10",
    "--config.model.width=4",
    "--config.model.stem_stride=2",
    "--config.model.head_width=8",
    "--config.model.granularities=(1,2)",
    "--config.data.height=32",
    "--config.data.width=32",
    "--config.train.batch_size=8",
    "--config.train.log_every_steps=5",
    "--config.train.epochs=100000",
    "--config.checkpoint.every_steps=10",
    "--config.evaluate.every_epochs=4",
)
# What differs between two runs of the same thing.
_TIMES = ("images_per_second",)
_FIRST_STEP = b"The first step was begun"


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run that can be started in any work directory.

    Attributes:
        options: of the command line.
        steps: at which it ends.
    """

    options: tuple[str, ...]
    steps: int

    def command(self, workdir: pathlib.Path) -> list[str]:
        """The command that starts it, or continues it."""
        return [sys.executable, "-m", "mfg_jax.main", f"--workdir={workdir}", *self.options]

    def start(self, workdir: pathlib.Path) -> subprocess.Popen[bytes]:
        """Starts it, its output in `output.txt` beside the work directory."""
        with workdir.with_suffix(".txt").open("ab") as output:
            return subprocess.Popen(
                self.command(workdir),
                stdout=output,
                stderr=output,
                env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            )


def write_small_release(folder: pathlib.Path) -> pathlib.Path:
    """A VRIC release of the official form, a hundredth of the official size; returns where it is."""
    release = folder / "VRIC"
    if write_release.main(["--format=vric", f"--out={release}", "--scale=0.01"]) != 0:
        raise RuntimeError("The release could not be written.")
    return release


def prepare(folder: pathlib.Path, steps: int, release: pathlib.Path | None = None) -> Run:
    """Prepares runs of so many steps on a small release, which is written into `folder` where none is given."""
    release = release or write_small_release(folder)
    options = (
        "--config=configs/vric.py",
        f"--config.data.manual_dir={release}",
        f"--config.data.data_dir={folder / 'data'}",
        f"--config.train.compilation_cache={folder / 'compiled'}",
        f"--config.train.max_steps={steps}",
        *SETTINGS,
    )
    return Run(options, steps)


def finish(run: Run, workdir: pathlib.Path) -> int:
    """Runs to the end; returns the exit status."""
    return run.start(workdir).wait()


def kill_at_random(
    run: Run, workdir: pathlib.Path, count: int, generator: np.random.Generator
) -> list[tuple[str, int]]:
    """Runs to the end through `count` kills.

    A third of the kills come at any moment of a start, the others within two seconds of its first step, or when the
    run has come as far as it may, so that it does not end before the last kill.

    Returns:
        What each kill hit ("a save", "steps", "a start"), and the step last reported.
    """
    moments = []
    for number in range(count):
        process = run.start(workdir)
        begun = time.monotonic()
        output = workdir.with_suffix(".txt")
        read = output.stat().st_size
        allowed = run.steps * (number + 1) // (count + 1)
        in_start = generator.random() < 1 / 3
        delay = generator.uniform(0, 8 if in_start else 2)
        stepping = False
        while process.poll() is None:
            stepping = stepping or _FIRST_STEP in output.read_bytes()[read:]
            if not stepping and not in_start:
                begun = time.monotonic()  # the delay counts from the first step
            if time.monotonic() - begun >= delay or (stepping and _last_step(workdir) >= allowed):
                break
            time.sleep(0.002)
        if process.poll() is not None:
            raise RuntimeError(f"The run ended by itself before kill {number + 1}: see {output}")
        process.kill()
        process.wait()
        saving = list((workdir / "checkpoints").glob("**/*orbax-checkpoint-tmp*"))
        # What a save left behind stays until the next start's manager removes it.
        moments.append(
            ("a save" if saving and stepping else "steps" if stepping else "a start", _last_step(workdir))
        )
    if finish(run, workdir) != 0:
        raise RuntimeError(f"The run did not end: see {workdir}.txt")
    return moments


def _last_step(workdir: pathlib.Path) -> int:
    lines = read_metrics(workdir)
    return lines[-1]["step"] if lines else 0


def compare(expected: pathlib.Path, actual: pathlib.Path) -> None:
    """Checks that two finished runs are the same, bit by bit.

    Raises:
        AssertionError: they are not.
    """
    states, lines, results = [], [], []
    for workdir in (expected, actual):
        with checkpoint.open_manager(
            workdir / "checkpoints", keep_latest=1, best_metric=None, create=False
        ) as manager:
            step = manager.latest_step()
            assert step is not None
            states.append((step, checkpoint.load_state(manager, step)))
        lines.append(
            [
                {name: value for name, value in line.items() if name not in _TIMES}
                for line in read_metrics(workdir)
            ]
        )
        files = sorted((workdir / "results").glob("*.json"))
        results.append({path.name: json.loads(path.read_text())["summary"] for path in files})
    assert states[0][0] == states[1][0]
    jax.tree.map(np.testing.assert_array_equal, states[0][1], states[1][1])
    assert lines[0] == lines[1]
    assert results[0] == results[1]


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = prepare(folder, options.steps)
        begun = time.monotonic()
        if finish(run, folder / "whole") != 0:
            sys.exit((folder / "whole.txt").read_text())
        print(f"undisturbed: {options.steps} steps in {time.monotonic() - begun:.0f} s", flush=True)
        begun = time.monotonic()
        moments = kill_at_random(run, folder / "killed", options.kills, np.random.default_rng(options.seed))
        hit = collections.Counter(what for what, _ in moments)
        print(
            f"{len(moments)} kills in {time.monotonic() - begun:.0f} s: "
            + ", ".join(f"{number} in {what}" for what, number in hit.most_common())
        )
        print("last reported steps:", *(step for _, step in moments))
        compare(folder / "whole", folder / "killed")
        lines = len(read_metrics(folder / "killed"))
        print(f"parameters, optimizer state, {lines} lines of metrics and all results are equal, bit by bit")


if __name__ == "__main__":
    main()
