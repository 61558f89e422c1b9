"""A loaded network: what it embeds, what it refuses, and what loading it imports."""

import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from tiny_run import tiny_config, write_pictures, write_run

import mfg_jax
from mfg_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run) -> mfg_jax.Embedder:
    return mfg_jax.load(run)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[pathlib.Path]:
    return sorted(write_pictures(tmp_path_factory.mktemp("pictures")).rglob("*.jpg"))


def test_paths_bytes_and_arrays_are_one(model, paths):
    encoded = [path.read_bytes() for path in paths]
    arrays = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in encoded]
    expected = model.embed(paths)
    assert expected.shape == (len(paths), model.embedding_size)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    for images in (encoded, arrays, np.stack(arrays), [*map(str, paths)]):
        np.testing.assert_array_equal(model.embed(images), expected)


def test_an_embedding_does_not_depend_on_its_batch(model, paths):
    expected = model.embed(paths)
    for batch_size in (1, 5):
        np.testing.assert_allclose(model.embed(paths, batch_size), expected, atol=1e-6)


def test_a_damaged_image_is_named_or_left_out(model, paths, tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(paths[0].read_bytes()[:-200])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    images = [paths[0], cut, paths[1], text, tmp_path / "absent.jpg"]
    with pytest.raises(UserError, match=r"cut\.jpg cannot be read: .*cut off"):
        model.embed(images)
    read = model.embed_readable(images, batch_size=8)
    assert read.index.tolist() == [0, 2]
    assert list(read.problems) == [1, 3, 4]
    assert "No such file" in read.problems[4]
    np.testing.assert_array_equal(read.features, model.embed(paths[:2], batch_size=8))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([], "no images"),
        ("one.jpg", "a list of paths"),
        (b"data", "a list of images"),
        (np.zeros((2, 8, 8, 3), np.float32), "uint8 RGB; got"),
        ([np.zeros((8, 8), np.uint8)], "image number 0 cannot be read: it is an array"),
    ],
)
def test_what_is_no_list_of_images_is_refused(model, images, expected):
    with pytest.raises(UserError, match=expected):
        model.embed(images)


def test_fingerprints_tell_networks_apart(model, run, tmp_path):
    assert mfg_jax.load(run).fingerprint == model.fingerprint
    config = tiny_config()
    config["data"]["width"] = 32
    assert mfg_jax.load(write_run(tmp_path, config)).fingerprint != model.fingerprint


def test_a_checkpoint_of_another_version_is_explained(tmp_path):
    config = tiny_config()
    del config["model"]["branch_from"]
    with pytest.raises(UserError, match=r"written by another version .*branch_from"):
        mfg_jax.load(write_run(tmp_path, config))


def test_loading_imports_nothing_of_training(run, paths):
    """In a process of its own, on one device, where eight wrote the checkpoint."""
    program = (
        "import sys, json, mfg_jax\n"
        f"model = mfg_jax.load({str(run)!r})\n"
        f"features = model.embed([{str(paths[0])!r}, {str(paths[1])!r}])\n"
        "mfg_jax.search(features, features, k=1), mfg_jax.RetrievalSet, mfg_jax.evaluate, mfg_jax.show\n"
        "print(json.dumps([features.tolist(), sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        env={"JAX_PLATFORMS": "cpu", "PATH": ""},
    )
    features, modules = json.loads(done.stdout)
    np.testing.assert_allclose(features, mfg_jax.load(run).embed(paths[:2]), atol=1e-6)
    for name in (
        "mfg_jax.train",
        "mfg_jax.train_step",
        "mfg_jax.losses",
        "mfg_jax.optimizer",
        "mfg_jax.config",
        "optax",
        "grain",
        "tensorflow_datasets",
        "tensorflow",
        "tensorboardX",
        "ml_collections",
    ):
        assert name not in modules, f"{name} is imported"
    assert "WARNING" not in done.stderr


def test_what_a_notebook_shows_is_escaped(run, model, paths):
    config = tiny_config()
    config["data"]["dataset"] = "<script>"
    shown = mfg_jax.Embedder(
        config, model.variables, model.step, model.model, model.mesh, model.forward
    )._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert f"{model.embedding_size} float32" in shown
    assert len(repr(model)) < 120
    name = '"><script>alert(1)</script>'
    ranked = mfg_jax.show(
        paths[:1], paths, [[1, -1]], [[0.5, np.inf]], query_names=[name], gallery_names=[name] * len(paths)
    )
    assert "<script>" not in ranked._repr_html_()
    assert ranked._repr_html_().count("<img") == 2


def test_ranked_pictures_are_marked(paths):
    ranked = mfg_jax.show(paths[:1], paths, [[0, 4]], [[0.0, 0.5]], correct=[[True, False]])._repr_html_()
    assert ranked.index("✓ 0.00") < ranked.index("✗ 0.50")
    assert "✓" not in mfg_jax.show(paths[:1], paths, [[0, 4]], [[0.0, 0.5]])._repr_html_()
    with pytest.raises(UserError, match="For 1 queries"):
        mfg_jax.show(paths[:1], paths, [0, 4], [0.0, 0.5])
    with pytest.raises(UserError, match=r"absent\.jpg cannot be shown"):
        mfg_jax.show(["absent.jpg"], paths, [[0]], [[0.0]])


def test_metrics_are_shown_in_percent():
    same = mfg_jax.RetrievalSet(np.eye(3, dtype=np.float32), np.arange(3), np.zeros(3, np.int64))
    shown = mfg_jax.evaluate(same, same, exclude_same_camera=False)._repr_html_()
    assert "100.0" in shown
    assert "3 of 3" in shown
