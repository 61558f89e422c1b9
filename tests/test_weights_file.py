"""Files of weights: the round trip of an export, and what is said of a file that cannot be read."""

import functools
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mfg_jax import checkpoint, weights_file
from mfg_jax.errors import UserError
from mfg_jax.inference import rebuild_network
from mfg_jax.models import MFGNet
from mfg_jax.models.pretrained import load_pretrained

SETTINGS = {
    "depth": 10,
    "width": 8,
    "stem_stride": 2,
    "head_width": 8,
    "granularities": [1, [2, 2]],
    "branch_from": [4, 0],
}
DESCRIPTION = {"config": {"model": SETTINGS, "data": {"height": 32, "width": 32}}, "num_identities": 3}


@functools.cache
def _network(num_identities: int = 3) -> tuple[MFGNet, dict]:
    """A network and variables of random values."""
    model = rebuild_network(DESCRIPTION | {"num_identities": num_identities})
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(num_identities)
    return model, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), dict(shapes))


def test_an_exported_network_comes_back_bit_for_bit(tmp_path):
    _, variables = _network()
    path = tmp_path / "new" / "weights.safetensors"
    weights_file.export(path, variables, DESCRIPTION, step=12)
    loaded, description, step = weights_file.load_exported(path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert (description, step) == (DESCRIPTION, 12)
    assert rebuild_network(description) == _network()[0]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_command_exports_a_run(tmp_path):
    _, variables = _network()
    with checkpoint.open_manager(tmp_path / "run/checkpoints", keep_latest=1, best_metric=None) as manager:
        checkpoint.save(manager, 7, variables=variables, optimizer={"a": np.ones(1)}, description=DESCRIPTION)
    command = [sys.executable, "-m", "mfg_jax.weights_file", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'out.safetensors'}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Wrote the weights of step 7" in done.stdout
    loaded, description, step = weights_file.load_exported(tmp_path / "out.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert (description, step) == (DESCRIPTION, 7)
    failed = subprocess.run(
        [*command, "--step=8", f"--out={tmp_path / 'other'}"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "does not hold the checkpoint of step 8" in failed.stderr


def test_an_export_starts_a_network_for_other_identities(tmp_path):
    path = tmp_path / "weights.safetensors"
    weights_file.export(path, _network()[1], DESCRIPTION, step=1)
    _, variables = _network(num_identities=4)
    loaded, report = load_pretrained(variables, weights_file.read(path).tensors)
    assert {reason for _, reason in report.ignored} == {"classifier of other identities"}
    assert len(report.ignored) == 6  # a vector each: global; global and four cells
    expected = _network()[1]

    def check(key, ours, theirs):
        if "classify" not in jax.tree_util.keystr(key):
            np.testing.assert_array_equal(ours, theirs)

    jax.tree_util.tree_map_with_path(check, loaded, expected)
    with pytest.raises(
        UserError, match="an exported MFG-Net, the network takes an MFG-Net of other settings"
    ):
        load_pretrained({"params": variables["params"]["trunk"]}, weights_file.read(path).tensors)


def test_bfloat16_is_read(tmp_path):
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "bfloat16.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x80\x3f\x00\xc0")
    np.testing.assert_array_equal(
        weights_file.read(path).tensors["a"].astype(np.float32), np.array([1, -2], np.float32)
    )


def test_the_fingerprint_is_the_files(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    save_file({"a": np.ones(3, np.float32)}, first)
    save_file({"a": np.zeros(3, np.float32)}, second)
    fingerprints = [weights_file.read(path).fingerprint for path in (first, first, second)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_truncated_file_is_damaged(tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    save_file({"a": np.ones(30, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{path}.*(damaged|not a file of weights)"):
        weights_file.read(path)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x89PNG\r\n"]
)
def test_what_is_not_a_file_of_weights_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "resnet50.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"it begins with {content[:16]!r}")):
        weights_file.read(path)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors cannot be read: No such file"):
        weights_file.read(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        weights_file.read(tmp_path)


def test_weights_that_are_no_export_do_not_make_a_network(tmp_path):
    path = tmp_path / "published.safetensors"
    save_file({"conv1.weight": np.ones((8, 3, 7, 7), np.float32)}, path)
    with pytest.raises(UserError, match="not those of an exported MFG-Net"):
        weights_file.load_exported(path)


def test_a_file_of_pytorchs_says_that_it_needs_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "resnet50.pth"
    path.write_bytes(b"PK\x03\x04 and the rest")
    with pytest.raises(UserError, match=r"needs PyTorch, which is not installed.*\.safetensors"):
        weights_file.read(Path(path))
