"""Losses are the same on any layout of devices and processes, but for rounding; on one layout, to the bit."""

import functools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import layout_curve
import numpy as np
import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
# Of 20 steps. Rounding differs with the order of sums, and each step adds to what the last ones left.
TOLERANCE = 1e-5

pytestmark = pytest.mark.slow


@functools.cache
def _on_one_device() -> dict[str, np.ndarray]:
    return layout_curve.run(jax.devices()[:1], "shard_map")


def _assert_the_same(result: dict[str, np.ndarray]) -> None:
    expected = _on_one_device()
    assert result.keys() == expected.keys()
    assert expected["loss"][-1] < 0.75 * expected["loss"][0]  # something was learned, and could go astray
    # The metric loss is that of the mined triplets: another triplet would show.
    for name in ("loss", "metric_loss"):
        np.testing.assert_allclose(result[name], expected[name], rtol=TOLERANCE, err_msg=name)
    for name in result.keys() - {"loss", "metric_loss", "gradient_norm"}:  # batch statistics, by path
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(result[name], expected[name], rtol=0, atol=TOLERANCE * scale, err_msg=name)


@pytest.mark.parametrize(
    ("devices", "mapping"), [(2, "shard_map"), (4, "shard_map"), (8, "shard_map"), (4, "pmap")]
)
def test_losses_of_twenty_steps_do_not_depend_on_devices_or_mapping(devices, mapping):
    _assert_the_same(layout_curve.run(jax.devices()[:devices], mapping))


def test_one_layout_gives_the_same_bits():
    once, again = (layout_curve.run(jax.devices()[:4], "shard_map") for _ in range(2))
    for name, values in once.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)


def _run_on_two_processes(mapping: str, path: pathlib.Path) -> dict[str, np.ndarray]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": str(REPOSITORY),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "tests/layout_curve.py", path, mapping, f"localhost:{port}", "2", str(process)],
            cwd=REPOSITORY,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    with np.load(path) as result:
        return dict(result)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_losses_of_twenty_steps_are_the_same_on_two_processes(mapping, tmp_path):
    result = _run_on_two_processes(mapping, tmp_path / "first.npz")
    _assert_the_same(result)
    if mapping == "shard_map":
        again = _run_on_two_processes(mapping, tmp_path / "second.npz")
        for name, values in result.items():
            np.testing.assert_array_equal(values, again[name], err_msg=name)
