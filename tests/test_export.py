"""An exported network: the same embeddings, from JAX alone."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_run import write_run

import mfg_jax
from mfg_jax import export as exporting
from mfg_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[1]

# Runs in a process that can import neither this project nor what it is made of.
_ALONE = """
import importlib.abc, json, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mfg_jax", "tfds_builders", "flax", "orbax", "optax", "cv2", "absl"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Refuse())
import jax, numpy as np
with open(sys.argv[1], "rb") as file:
    network = jax.export.deserialize(bytearray(file.read()))
images = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([network.call(images), network.call(images[:1])]))
print(json.dumps([str(network.in_avals[0]), list(network.platforms)]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> mfg_jax.Embedder:
    return mfg_jax.load(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(autouse=True)
def _fewer_repeats(monkeypatch):
    monkeypatch.setattr(exporting, "_SPEED_REPEATS", 1)
    monkeypatch.setattr(exporting, "_SPEED_BATCHES", (1,))


def test_the_file_gives_the_same_embeddings_without_this_project(model, tmp_path):
    exported = exporting.export(
        model, tmp_path / "network.jaxexport", results={"vric_step_00000007": {"mAP": 0.5}}
    )
    images = np.random.default_rng(0).integers(0, 256, (5, *model.image_size, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [
            sys.executable, "-I", "-c", _ALONE,
            exported.path, tmp_path / "images.npy", tmp_path / "features.npy",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    features = np.load(tmp_path / "features.npy")
    expected = model.embed(images)
    assert features.dtype == np.float32
    assert np.linalg.norm(features[:5] - expected, axis=1).max() < 1e-5
    assert np.linalg.norm(features[5] - expected[0]) < 1e-5
    height, width = model.image_size
    assert json.loads(done.stdout) == [f"uint8[batch,{height},{width},3]", ["cpu", "cuda", "tpu"]]

    description = json.loads(exported.description_path.read_text())
    assert description == exported.description
    assert description["input"]["shape"] == ["batch", height, width, 3]
    assert description["output"]["shape"] == ["batch", model.embedding_size]
    assert description["results"] == {"vric_step_00000007": {"mAP": 0.5}}
    for batch in (1, 7):
        assert description["parity"][f"batch {batch}"]["largest_relative_difference"] <= 1e-5
    assert description["speed"]["batch 1"]["exported_images_per_second"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "features.npy",
        "images.npy",
        "network.jaxexport",
        "network.jaxexport.json",
    ]


def test_a_file_that_differs_is_an_error_and_leaves_nothing(model, tmp_path, monkeypatch):
    """The original is changed by a hair behind the export's back."""
    before = tmp_path / "network.jaxexport"
    before.write_text("an earlier one")
    changed = jax.tree.map(lambda x: x + np.float32(0.001), jax.device_get(model.variables))
    forward = exporting._forward

    def other(model):
        return forward(
            mfg_jax.Embedder(model.config, changed, model.step, model.model, model.mesh, model.forward)
        )

    monkeypatch.setattr(exporting, "_forward", other)
    with pytest.raises(UserError, match="differs from the original: an embedding of a batch of 1"):
        exporting.export(model, before)
    assert [path.name for path in tmp_path.iterdir()] == ["network.jaxexport"]
    assert before.read_text() == "an earlier one"


def test_figures_are_those_of_the_step(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    for step in (7, 8):
        (results / f"vric_step_{step:08d}.json").write_text(json.dumps({"summary": {"mAP": step / 10}}))
    assert exporting.find_results(tmp_path, 7) == {"vric_step_00000007": {"mAP": 0.7}}
    assert exporting.find_results(tmp_path, 9) == {}
    (results / "vric_step_00000009.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        exporting.find_results(tmp_path, 9)


def test_onnx_without_its_converter_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps -r requirements-onnx\.txt"):
        exporting.export(model, tmp_path / "network.onnx", file_format="onnx")
    assert list(tmp_path.iterdir()) == []
