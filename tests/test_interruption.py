"""Signals: the run is saved and ends with its own status; continued, it is the run that was never stopped."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import IO

import numpy as np
import pytest

from benchmarks import kills
from mfg_jax.interruption import EXIT_INTERRUPTED

REPOSITORY = pathlib.Path(__file__).parents[1]

# XLA compiles in C++, without a look at Python's signals; so does this.
BUSY = """
import hashlib, time
from mfg_jax.interruption import Interruption

def work():
    print("working", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)

with Interruption() as stop:
    {}
"""


def _start(command: list[str]) -> subprocess.Popen[str]:
    """Starts it as the leader of a process group, as a terminal or a job's step does."""
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        start_new_session=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(stream: IO[str] | None, text: str) -> str:
    """Reads until a line holds the text."""
    assert stream is not None
    seen = ""
    for line in stream:
        seen += line
        if text in line:
            return line
    raise AssertionError(f"ended without {text!r}: {seen}")


def _busy(program: str) -> subprocess.Popen[str]:
    process = _start([sys.executable, "-c", BUSY.format(program)])
    _wait_for(process.stdout, "working")
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_where_nothing_is_lost_the_process_leaves_though_the_main_thread_is_busy(number):
    process = _busy("stop.leave_at_once(lambda: 'nothing to save.'); work()")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED == 75
    assert f"{number.name}: nothing to save." in errors


def test_a_signal_between_steps_is_noted_and_one_before_is_not_forgotten():
    process = _busy(
        "stop.leave_after_step(); work_for = time.monotonic() + 30; print('working', flush=True)\n"
        "    while not stop.requested and time.monotonic() < work_for: time.sleep(0.01)\n"
        "    assert stop.requested\n"
        "    stop.leave_at_once(lambda: 'saved.'); time.sleep(60)"
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "SIGTERM: finishing the step and saving" in errors
    assert "SIGTERM: saved." in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(number):
    process = _busy("stop.leave_after_step(); work()")
    process.send_signal(number)
    _wait_for(process.stderr, "once more ends the run at once")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number


def test_an_error_on_the_way_out_is_told_and_is_not_a_success():
    process = _busy("stop.leave_at_once(lambda: 1 / 0); work()")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ZeroDivisionError" in errors


def test_afterwards_signals_do_what_they_did():
    process = _start(
        [sys.executable, "-c", BUSY.format("pass") + "\nprint('out', flush=True)\ntime.sleep(60)\n"]
    )
    _wait_for(process.stdout, "out")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


@pytest.fixture(scope="module")
def whole(vric_release, tmp_path_factory) -> tuple[kills.Run, pathlib.Path]:
    """A run that nothing stopped, and its command."""
    folder = tmp_path_factory.mktemp("interruption")
    run = kills.prepare(folder, steps=60, release=vric_release)
    kills.finish(run, folder / "whole")
    return run, folder


@pytest.mark.slow
def test_a_run_stopped_by_signals_is_the_run_that_was_not(whole):
    run, folder = whole
    workdir = folder / "stopped"

    # Between two lines of metrics, which come at multiples of 5.
    process = _start(run.command(workdir))
    _wait_for(process.stderr, "step 5/")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_INTERRUPTED, errors
    assert "Traceback" not in errors
    assert f"is saved in {workdir}/checkpoints/step_0000" in errors
    assert (
        f"To go on: {pathlib.Path(sys.executable).name} -m mfg_jax.main --workdir={workdir} --config="
        in errors
    )

    # In the evaluation that ends the run.
    process = _start(run.command(workdir))
    _wait_for(process.stderr, "step 60/")
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "step_00000060").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    if process.returncode:  # otherwise the signal came too late to be noticed
        assert process.returncode == EXIT_INTERRUPTED
        assert "the evaluation was given up; step 60 is saved" in errors
    assert kills.finish(run, workdir) == 0
    kills.compare(folder / "whole", workdir)
    figures = json.loads((workdir / "checkpoints" / "step_00000060" / "metrics" / "metrics").read_text())
    assert 0 < figures["mAP"] < 1


@pytest.mark.slow
def test_input_workers_leave_signals_to_the_run_and_end_with_it(whole):
    """Signals go to the whole process group, as from a terminal; SIGKILL to the run alone."""
    run, folder = whole
    workdir = folder / "workers"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = _start([*run.command(workdir), "--config.data.workers=2"])
        try:
            _wait_for(process.stderr, f"/{run.steps} ")  # the line of a step
            (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
            # Reads until nobody is left who could write.
            _, errors = process.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == (-number if number == signal.SIGKILL else EXIT_INTERRUPTED), errors
        assert "Traceback" not in errors
    assert kills.finish(run, workdir) == 0
    kills.compare(folder / "whole", workdir)


@pytest.mark.slow
def test_a_killed_run_is_the_run_that_was_not(whole):
    run, folder = whole
    workdir = folder / "killed"
    moments = kills.kill_at_random(run, workdir, count=3, generator=np.random.default_rng(0))
    assert len(moments) == 3
    kills.compare(folder / "whole", workdir)
