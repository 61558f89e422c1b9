"""The command line as a person uses it: bad input is answered in a paragraph, and a killed run resumes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from small_run import NETWORK, OPTIONS

from mfg_jax import checkpoint, metric_writer, run_description, weights_file
from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet
from mfg_jax.retrieval import Result
from mfg_jax.retrieval.ranked_lists import load_ranked_lists
from tfds_builders.synthetic_vehicles import write_release

REPOSITORY = pathlib.Path(__file__).parents[1]


def _command(*options: str) -> list[str]:
    return [sys.executable, "-m", "mfg_jax.main", *options]


def _environment(devices: int = 1) -> dict[str, str]:
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}


def _run(*options: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*options),
        cwd=REPOSITORY,
        env=_environment(devices),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def release(vric_release, tmp_path_factory) -> pathlib.Path:
    """A VRIC release with a data directory of this module's own beside it."""
    link = tmp_path_factory.mktemp("release") / "VRIC"
    link.symlink_to(vric_release)
    return link


def _vric(release: pathlib.Path, workdir: pathlib.Path, *options: str) -> list[str]:
    return [
        "--config=configs/vric.py",
        f"--config.data.manual_dir={release}",
        f"--config.data.data_dir={release.parent / 'data'}",
        f"--workdir={workdir}",
        *OPTIONS,
        *options,
    ]


def _message(finished: subprocess.CompletedProcess[str]) -> str:
    """The error as shown: one paragraph on standard error, no traceback, exit status 1."""
    assert finished.returncode == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    paragraph = finished.stderr.strip().splitlines()[-1]
    assert paragraph.startswith("error: ")
    return paragraph


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--config.modl.depth=18"], "no field config.modl.depth. The nearest known one is config.model.depth"),
        (["--config.optimizer.rate=1"], "The nearest known one is config.optimizer.base_rate"),
        (["--config.train.epochs=many"], "config.train.epochs=many: invalid literal for int"),
        (["--mode=trian"], "--mode=trian: value should be one of <train|evaluate>"),
        (["something"], "Not understood: something"),
        (["--config.train.batch_size=30"], "config.train.batch_size is 30, which is not two or more identities of"),
        (["--config.evaluate.protocol=vrik"], 'There is no protocol "vrik". Did you mean "vric"?'),
        (["--config.evaluate.protocol=veri776"], "does not belong to the dataset 'vric'; its protocol is vric"),
        (["--config=configs/vric.py:pbc"], "no network 'pbc'; there are mfg, mgn"),
        (["--config.parallel.mapping=vmap"], "config.parallel.mapping is 'vmap'; it is one of shard_map, pmap"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_explained(options, expected, tmp_path):
    finished = _run("--config=configs/vric.py", f"--workdir={tmp_path}/run", *options)
    assert expected in _message(finished)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "KeyError: 'get_config'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def get_config(): return {}", "returns a dict; expected a ConfigDict"),
        (
            "from configs import default\n\ndef get_config():\n"
            "    config = default.get_config()\n    config.train.epoch = 5\n    return config",
            "epochs",
        ),
    ],
)
def test_a_broken_configuration_file_is_explained(text, expected, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(text)
    message = _message(_run(f"--config={path}"))
    assert str(path) in message
    assert expected in message


def test_a_space_instead_of_the_equals_sign_changes_nothing(tmp_path):
    assert "no configuration file configs/vrik.py" in _message(_run("--config", "configs/vrik.py"))
    finished = _run("--config", "configs/vric.py", "--config.modl.depth", "3")
    assert "The nearest known one is config.model.depth" in _message(finished)


def test_a_work_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    finished = _run("--config=configs/vric.py", f"--workdir={tmp_path}/file")
    assert f"The work directory {tmp_path}/file cannot be made or written" in _message(finished)


def test_a_missing_configuration_file_names_those_that_are_there():
    assert "no configuration file configs/vrik.py" in _message(_run("--config=configs/vrik.py"))
    assert "--config=configs/synthetic.py needs no download" in _message(_run())


def test_a_batch_that_cannot_be_shared_by_the_devices_is_refused(tmp_path):
    finished = _run(
        "--config=configs/vric.py", f"--workdir={tmp_path}/run", "--config.train.batch_size=36", devices=8
    )
    assert "config.train.batch_size is 36, which cannot be divided equally among 8 devices" in _message(
        finished
    )
    assert "such as 32" in _message(finished)


def test_a_missing_dataset_says_what_to_request_and_where_to_put_it(tmp_path):
    finished = _run(
        "--config=configs/vric.py", f"--workdir={tmp_path}/run", f"--config.data.data_dir={tmp_path}"
    )
    text = finished.stderr
    assert finished.returncode == 1
    assert "Traceback" not in text
    assert str(tmp_path / "downloads" / "manual") in text
    for name in ("vric_train.txt", "probe_images", "qmul-vric.github.io"):
        assert name in text


def test_a_malformed_line_and_a_missing_image_are_named(release, tmp_path):
    broken = tmp_path / "copy" / "VRIC"  # with a data directory of its own, beside it
    broken.parent.mkdir()
    subprocess.run(["cp", "-rL", release, broken], check=True)
    lines = (broken / "vric_train.txt").read_text().splitlines()
    image = lines[4].split()[0]
    (broken / "train_images" / image).unlink()
    finished = _run(*_vric(broken, tmp_path / "run"))
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert image in finished.stderr

    lines[6] = "MVI_20011_016_img00105.jpg 15"
    (broken / "vric_train.txt").write_text("\n".join(lines))
    finished = _run(*_vric(broken, tmp_path / "run"))
    assert finished.returncode == 1
    assert re.search(r"vric_train\.txt\D+7\b", finished.stderr)


@pytest.mark.slow
def test_a_run_is_killed_resumed_and_ends_as_if_it_had_not_been(release, tmp_path):
    # 17 steps an epoch: the end and a change of the rate come after the kill.
    options = [
        "--config.train.max_steps=20",
        "--config.checkpoint.every_steps=3",
        "--config.optimizer.decay_epochs=(1,)",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished = _run(*_vric(release, whole, *options))
    assert finished.returncode == 0, finished.stderr

    process = subprocess.Popen(
        _command(*_vric(release, killed, *options)),
        cwd=REPOSITORY,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not [line for line in metric_writer.read_metrics(killed) if line["step"] >= 8]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    finished = _run(*_vric(release, killed, *options))
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"Resumed at step (3|6|9), in epoch 1\.", finished.stderr)
    losses = {
        run: [(line["step"], line["loss"]) for line in metric_writer.read_metrics(run) if "loss" in line]
        for run in (whole, killed)
    }
    assert [step for step, _ in losses[killed]] == list(range(1, 21))
    assert losses[killed] == losses[whole]
    tables = []
    for run in (whole, killed):
        rows = (run / "epochs.txt").read_text().splitlines()
        cells = [row.split() for row in rows]
        # All but the speed.
        tables.append([row[:7] + row[9:] if row and row[0].isdigit() else row for row in cells])
        assert rows[0] in finished.stdout
        # Everything that a run leaves is told of, and its embeddings are there to be shown.
        names = {f"{path.name}/" if path.is_dir() else path.name for path in run.iterdir()}
        assert {"checkpoints/", "epochs.txt", "README.txt"} <= names <= set(run_description.ENTRIES)
        labels = (run / "tensorboard" / "projector" / "metadata.tsv").read_text().splitlines()
        vectors = (run / "tensorboard" / "projector" / "tensors.tsv").read_text().splitlines()
        assert len(labels) - 1 == len(vectors)
        assert {row.split("\t")[3] for row in labels} == {"split", "query", "gallery"}
        assert "vric_step_00000020" in (run / "tensorboard" / "projector_config.pbtxt").read_text()
        events = b"".join(path.read_bytes() for path in (run / "tensorboard").glob("events.*"))
        assert b"ranked_lists" in events
    assert [row[:2] for row in tables[0][2:4]] == [["1", "17"], ["2", "20"]]
    assert tables[0] == tables[1]
    results = [
        json.loads((run / "results" / "vric_step_00000020.json").read_text()) for run in (whole, killed)
    ]
    assert results[0]["summary"] == results[1]["summary"]
    # VRIC has one right answer a query, which makes mINP and mAP the same; the table says so.
    assert results[0]["summary"]["mAP"] == pytest.approx(results[0]["summary"]["mINP"])
    assert "mINP equals mAP here because every query has exactly one right answer" in finished.stdout

    # The same directory with another network is refused, and nothing is lost.
    before = sorted(path.name for path in (killed / "checkpoints").iterdir())
    refused = _run(*_vric(release, killed, *options, "--config.model.head_width=24"))
    assert "config.model.head_width was 16 and is now 24" in _message(refused)
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == before

    # On four devices the run of one device continues.
    more = _run(*_vric(release, killed, *options, "--config.train.max_steps=22"), devices=4)
    assert more.returncode == 0, more.stderr
    assert "Resumed at step 20, in epoch 2." in more.stderr
    fewer = _run(*_vric(release, killed, *options), devices=4)
    assert "holds a checkpoint of step 22, but this configuration ends at step 20" in _message(fewer)

    # The checkpoint of four devices is evaluated on one, by its own network and image size, with the same figures.
    result = killed / "results" / "vric_step_00000022.json"
    summary = json.loads(result.read_text())["summary"]
    result.unlink()
    again = _run(
        "--config=configs/vric.py",
        f"--config.data.manual_dir={release}",
        f"--config.data.data_dir={release.parent / 'data'}",
        f"--workdir={killed}",
        "--mode=evaluate",
    )
    assert again.returncode == 0, again.stderr
    evaluated = json.loads(result.read_text())
    assert evaluated["summary"]["mAP"] == pytest.approx(summary["mAP"], abs=1e-3)
    assert evaluated["context"]["config"]["data"]["height"] == 32


@pytest.mark.slow
def test_a_checkpoint_is_loaded_without_the_training_code(release, tmp_path):
    finished = _run(*_vric(release, tmp_path / "run", "--config.train.max_steps=2"), devices=4)
    assert finished.returncode == 0, finished.stderr
    program = f"""
import pathlib, sys
import numpy as np
import mfg_jax
model = mfg_jax.load({str(tmp_path / "run")!r})
paths = sorted(pathlib.Path({str(release / "gallery_images")!r}).iterdir())[:5]
features = model.embed(paths, batch_size=3)
assert features.shape == (5, 4 * 16) and features.dtype == np.float32
np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
np.testing.assert_allclose(model.embed(images)[1:], model.embed(images[1:]), rtol=1e-4, atol=1e-6)
indices, distances = mfg_jax.search(features, features, k=2)
assert indices[:, 0].tolist() == [0, 1, 2, 3, 4]
assert model.config["data"]["height"] == 32 and model.step == 2
loaded = [name for name in sys.modules if name in ("mfg_jax.train", "mfg_jax.losses", "optax", "tensorflow")]
assert not loaded, loaded
"""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
def test_a_run_starts_from_exported_weights_and_resumes_without_the_file(release, tmp_path):
    run, weights = tmp_path / "run", tmp_path / "weights.safetensors"
    model = MFGNet(num_identities=3, granularities=(1, 2), **NETWORK)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(0)
    exported = jax.tree.map(lambda leaf: 0.1 * rng.random(leaf.shape, np.float32), dict(shapes))
    weights_file.export(weights, exported, {}, step=5)

    # At a rate of zero the weights stay what they were.
    options = [f"--config.train.pretrained={weights}", "--config.optimizer.base_rate=0", "--config.seed=1"]
    finished = _run(*_vric(release, run, "--config.train.max_steps=1", *options))
    assert finished.returncode == 0, finished.stderr
    assert "Pretrained weights: an exported MFG-Net" in finished.stderr
    loaded, description, _ = checkpoint.load_variables(run / "checkpoints")
    trunks = [tree["params"]["trunk"] for tree in (loaded, exported)]
    jax.tree.map(np.testing.assert_array_equal, *trunks)
    listing = (run / "pretrained.txt").read_text()
    assert description["pretrained"]["sha256"] in listing
    assert "params/trunk/stem/conv/kernel (3, 3, 3, 8) float32 -> params/trunk/stem/conv/kernel" in listing

    weights.unlink()
    finished = _run(*_vric(release, run, "--config.train.max_steps=2", *options))
    assert finished.returncode == 0, finished.stderr
    assert "Resumed at step 1" in finished.stderr
    _, resumed, _ = checkpoint.load_variables(run / "checkpoints")
    assert resumed["pretrained"] == description["pretrained"]
    refused = _run(*_vric(release, tmp_path / "other", *options))
    assert re.search(r"config\.train\.pretrained.*cannot be read: No such file", _message(refused))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale", "protocol"),
    [
        ("veri776", 0.03, "veri776"),
        ("vehicleid", 0.005, "vehicleid-800"),
        ("vehicleid", 0.005, "vehicleid-1600"),
        ("veri_wild", 0.002, "veri-wild-3000"),
    ],
)
def test_each_dataset_is_trained_on_and_evaluated_by_its_protocol(name, scale, protocol, tmp_path):
    assert write_release.main([f"--format={name}", f"--out={tmp_path}/release", f"--scale={scale}"]) == 0
    finished = _run(
        f"--config=configs/{name}.py",
        f"--config.data.manual_dir={tmp_path}/release",
        f"--config.data.data_dir={tmp_path}/data",
        f"--config.evaluate.protocol={protocol}",
        f"--workdir={tmp_path}/run",
        *OPTIONS,
        "--config.train.batch_size=16",
        "--config.train.max_steps=2",
    )
    assert finished.returncode == 0, finished.stderr
    assert f"protocol {protocol}" in finished.stdout
    assert ("10 draws (seed 0)" in finished.stdout) == (name == "vehicleid")
    assert list((tmp_path / "run" / "pictures").glob(f"ranked_lists_{protocol}*.png"))
    [path] = (tmp_path / "run" / "results").glob(f"{protocol}*.json")
    lists, _ = load_ranked_lists(path.with_name(f"{path.stem}_lists.npz"))
    draw = Result.from_json(path).draws[0]
    assert lists.query.tolist() == draw.query_index.tolist()
    assert (lists.correct[:, 0] == (draw.first_hit == 1)).all()


@pytest.mark.slow
def test_ones_own_pictures_are_trained_on_and_evaluated(release, tmp_path):
    lines = [line.split() for line in (release / "vric_train.txt").read_text().splitlines()][:400]
    ids = sorted({int(identity) for _, identity, _ in lines})
    rows = ["image,id,camera,split"]
    for number, (name, identity, camera) in enumerate(lines):
        is_test = int(identity) >= ids[len(ids) * 2 // 3]
        split = ("query" if number % 5 == 0 else "gallery") if is_test else "train"
        rows.append(f"train_images/{name},{identity},{camera},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    subprocess.run(["cp", "-r", release / "train_images", tmp_path], check=True)
    finished = _run(
        "--config=configs/custom.py",
        f"--config.data.manual_dir={tmp_path}",
        f"--config.data.data_dir={tmp_path}/data",
        f"--workdir={tmp_path}/run",
        *OPTIONS,
        "--config.train.batch_size=16",
        "--config.train.max_steps=2",
    )
    assert finished.returncode == 0, finished.stderr
    assert "protocol csv" in finished.stdout


def test_metrics_are_cut_back_to_the_step_resumed_from(tmp_path):
    with metric_writer.MetricWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1 / step, "bad": np.nan})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    with metric_writer.MetricWriter(tmp_path, first_step=3) as writer:
        writer.write(4, {"loss": 9.0})
    lines = metric_writer.read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] == 9.0
    assert lines[0]["bad"] is None
    with metric_writer.MetricWriter(tmp_path) as writer:  # anew: killed before its first checkpoint
        writer.write(0, {"loss": 2.0})
    assert [line["step"] for line in metric_writer.read_metrics(tmp_path)] == [0]
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: '\{\}' is not a line of metrics"):
        metric_writer.read_metrics(tmp_path)
