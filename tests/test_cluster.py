"""The command line on several processes: one dies, one is told to stop, and the run goes on, on other layouts too."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import small_run

from mfg_jax import metric_writer

REPOSITORY = pathlib.Path(__file__).parents[1]
OPTIONS = [
    "--config=configs/vric.py",
    *small_run.OPTIONS,
    "--config.checkpoint.every_steps=2",
    "--config.evaluate.every_epochs=1000",
]

pytestmark = pytest.mark.slow


class _Runs:
    """Starts runs of one work directory."""

    def __init__(self, folder: pathlib.Path, release: pathlib.Path):
        self.workdir = folder / "run"
        self._options = [
            *OPTIONS,
            f"--workdir={self.workdir}",
            f"--config.data.manual_dir={release}",
            f"--config.data.data_dir={folder}/data",
        ]
        self._environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        }

    def start(self, *options: str, devices: int = 1) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mfg_jax.main", *self._options, *options],
            cwd=REPOSITORY,
            env=self._environment | {"JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_two(self, *options: str) -> list[subprocess.Popen[str]]:
        """Two processes of two devices."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            coordinator = f"--coordinator=localhost:{server.getsockname()[1]}"
        return [
            self.start(*options, coordinator, "--num_processes=2", f"--process_id={process}", devices=2)
            for process in range(2)
        ]

    def wait_for_step(self, step: int, processes: list[subprocess.Popen[str]]) -> None:
        deadline = time.monotonic() + 300
        while not any(line["step"] >= step for line in metric_writer.read_metrics(self.workdir)):
            ended = [process.communicate()[0] for process in processes if process.poll() is not None]
            assert not ended, ended
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def steps(self) -> list[int]:
        """The steps that were reported."""
        return [line["step"] for line in metric_writer.read_metrics(self.workdir) if "loss" in line]


def _said(process: subprocess.Popen[str], within: float) -> str:
    return process.communicate(timeout=within)[0]


_WAITING = """
import sys, time
from mfg_jax import distributed, parallel
distributed.start("on", coordinator=sys.argv[1], num_processes=3, process_id=int(sys.argv[2]))
parallel.all_processes(True)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("killed", [0, 2])
def test_processes_do_not_wait_for_one_that_was_killed(killed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"localhost:{server.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WAITING, coordinator, str(number)],
            cwd=REPOSITORY,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(3)
    ]
    for process in processes:
        while (line := process.stdout.readline()) != "ready\n":
            assert line  # else it has ended
    processes[killed].kill()
    for number, process in enumerate(processes):
        said = _said(process, 30)
        if number != killed:
            assert f"Process {killed} of 3, on {socket.gethostname()}, has ended without a word" in said
            # With process 0 goes JAX's service, at which JAX may abort first.
            assert process.returncode in ((69, -signal.SIGABRT) if killed == 0 else (69,))


def test_a_run_survives_its_processes_and_changes_their_number(vric_release, tmp_path):
    runs = _Runs(tmp_path, vric_release)
    process = runs.start("--config.train.max_steps=4", devices=4)
    said = _said(process, 600)
    assert process.returncode == 0, said

    # On two processes; one is killed, as by a host that dies. The other says so, and does not hang.
    processes = runs.start_two("--config.train.max_steps=500")
    runs.wait_for_step(8, processes)
    processes[1].send_signal(signal.SIGKILL)
    said = _said(processes[0], 60)
    assert processes[0].returncode == 69, said
    assert "Resumed at step 4" in said
    host = re.escape(socket.gethostname())
    assert re.search(
        rf"error: This process ends because another one did\. Process 1 of 2, on {host}, has ended without a word",
        said,
    ), said
    assert "Traceback" not in said
    _said(processes[1], 10)

    # Again; one is told to stop, as when its host is wanted for other work. Both save the same step.
    reached = max(runs.steps())
    processes = runs.start_two("--config.train.max_steps=500")
    runs.wait_for_step(reached + 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    said = [_said(process, 120) for process in processes]
    assert [process.returncode for process in processes] == [75, 75], said
    [step] = {re.search(r"Step (\d+) of \d+ is saved", text)[1] for text in said}

    # On one device, then on two of one process.
    for devices, last in ((1, int(step) + 1), (2, int(step) + 2)):
        process = runs.start(f"--config.train.max_steps={last}", devices=devices)
        said = _said(process, 600)
        assert process.returncode == 0, said
        assert f"Resumed at step {last - 1}" in said
    assert runs.steps() == list(range(1, last + 1))

    # What many devices wrote is loaded on one.
    program = (
        f"import mfg_jax, numpy as np; model = mfg_jax.load({str(runs.workdir)!r});"
        f"print(model.step, model.embed(np.zeros((1, 9, 9, 3), np.uint8)).shape)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == [str(last), "(1,", "64)"]


def test_two_processes_build_train_and_evaluate_as_one_does(vric_release, tmp_path):
    """From nothing: the dataset is built once, and the result is that of the checkpoint, on one process and on two."""
    runs = _Runs(tmp_path, vric_release)
    processes = runs.start_two("--config.train.max_steps=2")
    said = [_said(process, 600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert ["building vric" in text for text in said] == [True, False]
    assert "Results, pictures and checkpoints are in" in said[0]
    assert "Results, pictures and checkpoints are in" not in said[1]
    [path] = (runs.workdir / "results").glob("vric_step_*2.json")
    figures = [_figures(path)]
    for again in (
        lambda: [runs.start("--mode=evaluate", devices=4)],
        lambda: runs.start_two("--mode=evaluate"),
    ):
        path.unlink()
        processes = again()
        said = [_said(process, 600) for process in processes]
        assert {process.returncode for process in processes} == {0}, said
        figures.append(_figures(path))
    assert figures[0]
    assert figures[0] == figures[1] == figures[2]


def _figures(path: pathlib.Path) -> list[str]:
    """Every query's own figures in a result."""
    return re.findall(r'"(?:average_precision|first_hit)": \[[^]]*\]', path.read_text())
