"""`python -m mfg_jax` as a person uses it."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_run import tiny_config, write_pictures, write_run

import mfg_jax
from mfg_jax import __main__ as command_line
from mfg_jax.commands import embed, pictures
from mfg_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "vehicles")


@pytest.fixture(scope="module")
def gallery(run, folder, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("gallery") / "gallery.parquet"
    assert _run("embed", folder, "--label_folders", f"--workdir={run}", f"--out={path}") == 0
    return path


@functools.cache
def _load(checkpoints: pathlib.Path, step: int | None) -> mfg_jax.Embedder:
    return mfg_jax.load(checkpoints.parent, step)


@pytest.fixture(autouse=True, scope="module")
def _networks_are_compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            embed,
            "load",
            lambda workdir, step: _load((pathlib.Path(workdir) / "checkpoints").resolve(), step),
        )
        yield


def _run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def _error(capsys, *arguments: object) -> str:
    """The one paragraph that a mistake is answered with."""
    assert _run(*arguments) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_help_tells_the_commands_and_mistyped_ones_are_refused():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "mfg_jax", *arguments],
            cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip

    done = call("--help")
    assert done.returncode == 0
    for name in ("embed", "calibrate", "search", "compare", "export"):
        assert name in done.stdout
    assert call("serch").returncode == 2
    assert "invalid choice: 'serch'" in call("serch").stderr


@pytest.mark.parametrize("name", ["embed", "calibrate", "search", "compare", "export"])
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        _run(name, "--help")
    assert f"python -m mfg_jax {name} " in capsys.readouterr().out


def test_a_features_file_is_of_the_pictures(run, folder, gallery):
    features = mfg_jax.load_features(gallery)
    paths = sorted(folder.rglob("*.jpg"))
    assert list(features.names) == [path.relative_to(folder).as_posix() for path in paths]
    np.testing.assert_array_equal(features.features.features, _load(run / "checkpoints", None).embed(paths))
    vehicles = [features.context["identities"][str(number)] for number in features.features.ids]
    assert vehicles == [path.parent.name for path in paths]


def test_a_copy_of_a_picture_is_found_and_the_picture_itself_left_out(folder, gallery, tmp_path, capsys):
    out, picture = tmp_path / "result.json", tmp_path / "result.png"
    query = shutil.copy(folder / "car 2" / "1.jpg", tmp_path / "1.jpg")
    assert (
        _run("search", query, f"--gallery={gallery}", "--k=3", f"--json={out}", f"--picture={picture}") == 0
    )
    table = capsys.readouterr().out
    (found,) = json.loads(out.read_text())["queries"]
    assert found["name"] == "1.jpg"
    assert found["results"][0]["name"] == "car 2/1.jpg"
    assert found["results"][0]["distance"] == pytest.approx(0, abs=1e-3)
    distances = [result["distance"] for result in found["results"]]
    assert distances == sorted(distances)
    for result in found["results"]:
        assert result["name"] in table
        assert result["vehicle"] == pathlib.Path(result["name"]).parent.name
        assert result["correct"] is None
    assert picture.read_bytes().startswith(b"\x89PNG")
    own = folder / "car 2" / "1.jpg"
    assert _run("search", own, f"--gallery={gallery}", "--k=11", f"--json={out}") == 0
    assert "left out of their own results: 1." in capsys.readouterr().out
    results = json.loads(out.read_text())["queries"][0]["results"]
    assert len(results) == 11
    assert "car 2/1.jpg" not in [result["name"] for result in results]
    assert results[:2] == [
        result | {"rank": result["rank"] - 1, "distance": pytest.approx(result["distance"], abs=1e-5)}
        for result in found["results"][1:]
    ]


def test_labelled_queries_are_marked(folder, gallery, tmp_path, capsys):
    out = tmp_path / "result.json"
    # Of one vehicle alone: as a number it is 0, in the gallery 3.
    shutil.copytree(folder / "car 3", tmp_path / "queries" / "car 3")
    assert _run(
        "search", tmp_path / "queries", "--label_folders", f"--gallery={gallery}", f"--json={out}"
    ) == 0  # fmt: skip
    assert "✓" in capsys.readouterr().out
    for found in json.loads(out.read_text())["queries"]:
        assert any(result["correct"] for result in found["results"])
        assert all(result["correct"] == (result["vehicle"] == "car 3") for result in found["results"])


def test_a_threshold_leaves_out_what_is_farther(folder, gallery, tmp_path, capsys):
    query, out = shutil.copy(folder / "car 0" / "0.jpg", tmp_path), tmp_path / "result.json"
    assert _run("search", query, f"--gallery={gallery}", "--k=12", f"--json={out}") == 0
    distances = [r["distance"] for r in json.loads(out.read_text())["queries"][0]["results"]]
    between = (distances[4] + distances[5]) / 2
    assert _run("search", query, f"--gallery={gallery}", f"--threshold={between}", f"--json={out}") == 0
    kept = [r["distance"] for r in json.loads(out.read_text())["queries"][0]["results"]]
    assert kept == pytest.approx(distances[:5])
    capsys.readouterr()
    assert _run("search", query, f"--gallery={gallery}", "--threshold=0") == 0
    assert "nothing; the nearest is car 0/0.jpg" in capsys.readouterr().out


def test_comparing_needs_a_calibration_to_decide(run, folder, gallery, tmp_path, capsys):
    own = tmp_path / "run"
    own.mkdir()
    (own / "checkpoints").symlink_to(run / "checkpoints")
    pair = [folder / "car 1" / "0.jpg", folder / "car 1" / "1.jpg"]
    assert _run("compare", *pair, f"--workdir={own}") == 0
    assert "Not known. There is no calibration" in capsys.readouterr().out
    assert "There is no calibration" in _error(
        capsys, "compare", *pair, f"--workdir={own}", "--false_alarms=0.1"
    )

    assert _run("calibrate", gallery, f"--workdir={own}") == 0
    assert "12 pictures of 4 vehicles: 12 pairs of one vehicle, 54 of two" in capsys.readouterr().out
    out = tmp_path / "answer.json"
    for rate in (0.02, 0.9):
        assert _run("compare", *pair, f"--workdir={own}", f"--false_alarms={rate}", f"--json={out}") == 0
        answer = json.loads(out.read_text())
        features = _load(run / "checkpoints", None).embed(pair)
        assert answer["distance"] == pytest.approx(np.linalg.norm(features[0] - features[1]))
        assert answer["same_vehicle"] == (answer["distance"] < answer["threshold"])
        assert answer["false_alarms"] <= rate
        text = capsys.readouterr().out
        assert ("the same vehicle, at" in text) == answer["same_vehicle"]
    assert _run(
        "search", pair[0], f"--gallery={gallery}", f"--workdir={own}", "--false_alarms=0.5", f"--json={out}"
    ) == 0  # fmt: skip
    limit = mfg_jax.retrieval.calibration.Calibration.from_json(own / "calibration.json").threshold(0.5)
    results = json.loads(out.read_text())["queries"][0]["results"]
    assert results
    assert all(result["distance"] < limit.distance for result in results)


def test_bad_pictures_are_an_error_or_left_out(run, folder, tmp_path, capsys):
    own = shutil.copytree(folder, tmp_path / "vehicles")
    (own / "car 1" / "1.jpg").write_bytes(b"damaged")
    out = tmp_path / "gallery.npz"
    command = ("embed", own, f"--workdir={run}", f"--out={out}")
    message = _error(capsys, *command)
    assert "car 1/1.jpg cannot be read" in message
    assert "--skip_bad" in message
    assert not out.exists()
    assert _run(*command, "--skip_bad") == 0
    shown = capsys.readouterr()
    assert "left out: car 1/1.jpg" in shown.err
    assert "11 pictures, embeddings" in shown.out
    assert "1 left out" in shown.out
    assert "car 1/1.jpg" not in mfg_jax.load_features(out).names


def test_another_network_is_refused(folder, gallery, tmp_path, capsys):
    config = tiny_config()
    config["data"]["width"] = 32
    other = write_run(tmp_path / "other", config)
    message = _error(capsys, "search", folder / "car 0", f"--gallery={gallery}", f"--workdir={other}")
    assert "was embedded by another network" in message
    assert "another network" in _error(capsys, "calibrate", gallery, f"--workdir={other}")


def test_a_run_or_pictures_that_were_moved_are_asked_for(run, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "pictures")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(run / "checkpoints")
    gallery = tmp_path / "gallery.npz"
    assert _run("embed", tmp_path / "pictures", f"--workdir={tmp_path}/run", f"--out={gallery}") == 0
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    (tmp_path / "pictures").rename(tmp_path / "moved")
    search = ("search", folder / "car 0" / "0.jpg", f"--gallery={gallery}", f"--picture={tmp_path}/r.png")
    assert "give --workdir" in _error(capsys, *search)
    search += (f"--workdir={tmp_path}/elsewhere",)
    assert "No such file or directory. Where the gallery's pictures were moved" in _error(capsys, *search)
    assert _run(*search, f"--gallery_root={tmp_path}/moved") == 0
    assert (tmp_path / "r.png").exists()


def test_a_file_that_cannot_be_written_is_named(run, folder, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file where a folder is wanted")
    message = _error(capsys, "embed", folder, f"--workdir={run}", f"--out={tmp_path}/taken/gallery.npz")
    assert "taken cannot be read or written" in message


def test_a_manifest_gives_names_vehicles_and_cameras(folder, tmp_path):
    rows = {"image": ["car 0/0.jpg", "car 1/2.jpg"], "id": ["17", "4"], "camera": ["3", ""]}
    text = tmp_path / "manifest.csv"
    text.write_text("image,id,camera\ncar 0/0.jpg,17,3\ncar 1/2.jpg,4,\n")
    pq.write_table(
        pa.table({"image": rows["image"], "id": [17, 4], "camera": [3, None]}), tmp_path / "manifest.parquet"
    )
    for path in (text, tmp_path / "manifest.parquet"):
        found = pictures.find_pictures([str(path)])
        assert list(found.names) == rows["image"]
        assert found.images[0] == tmp_path / "car 0/0.jpg"
        assert found.ids.tolist() == [17, 4]
        assert found.cameras.tolist() == [3, -1]
        assert found.labelled
        assert not found.identities


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no column image; its columns are none"),
        ("picture,id\na.jpg,1\n", "its columns are picture, id"),
        ("image\n", "has no rows"),
        ("image,id\na.jpg\n", "line 2: 1 fields instead of 2"),
        ("image,id\na.jpg,1\nb.jpg,\n", r"row 2 below the header \(b.jpg\): the column id is empty"),
        ("image,camera\na.jpg,north\n", "the camera 'north' is not a number"),
        ('image\n"a.jpg\n', "cannot be read"),
    ],
)
def test_a_bad_manifest_is_explained(text, expected, tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        pictures.find_pictures([str(path)])


def test_patterns_and_files_are_named_from_their_common_folder(folder):
    found = pictures.find_pictures([f"{folder}/car [01]/*.jpg", f"{folder}/car 3/2.jpg"])
    assert len(found) == 7
    assert found.names[-1] == "car 3/2.jpg"
    assert not found.labelled


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["absent"], "no picture, folder or manifest absent"),
        (["absent/*.jpg"], "stands for no picture"),
        (["{folder}/car 0", "{folder}/car 0/1.jpg"], "1.jpg is given twice"),
    ],
)
def test_sources_that_cannot_be_used_are_explained(sources, expected, folder):
    with pytest.raises(UserError, match=expected):
        pictures.find_pictures([source.format(folder=folder) for source in sources])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["embed", "--out=a.parquet", "--workdir=absent"], "Say what to embed"),
        (["embed", "{folder}", "--out=a.csv", "--workdir=absent"], r"ends in .parquet or .npz"),
        (["embed", "{folder}", "--out=a.npz", "--workdir=absent"], "There are no checkpoints in"),
        (["embed", "--dataset=vric", "--out=a.npz", "--workdir=absent"], "With --dataset goes --split"),
        (["embed", "{folder}/car 0", "--label_folders", "--out=a.npz", "--workdir=absent"], "lies in none"),
        (["search", "{folder}", "--gallery=absent.parquet"], "There is no features file"),
        (["export", "--workdir=absent", "--out=a"], "There are no checkpoints in"),
    ],
)
def test_mistakes_are_answered_in_a_paragraph(arguments, expected, folder, capsys):
    assert expected in _error(capsys, *(argument.format(folder=folder) for argument in arguments))


@pytest.mark.slow
def test_export_writes_the_network_and_says_what_it_measured(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mfg_jax.export._SPEED_REPEATS", 1)
    monkeypatch.setattr("mfg_jax.export._SPEED_BATCHES", (1,))
    assert _run("export", f"--workdir={run}", f"--out={tmp_path}/network.jaxexport") == 0
    shown = capsys.readouterr().out
    assert "batch 7: differs by" in shown
    assert "was not evaluated" in shown
    assert (tmp_path / "network.jaxexport.json").exists()
