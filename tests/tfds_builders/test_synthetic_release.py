"""The releases that `write_release` writes, read back by a parser of a few lines."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tfds_builders.errors import DatasetError
from tfds_builders.synthetic_vehicles import release_vric, release_writer, write_release

_ROOT = Path(__file__).resolve().parents[2]
_SCALE = 0.006  # above the number of pictures that one process takes alone


def _read_list(path: Path) -> list[tuple[str, int, int]]:
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(name, int(identity), int(camera)) for name, identity, camera in rows]


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _run(*arguments: str) -> int:
    return write_release.main(list(arguments))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "VRIC"
    assert _run("--format=vric", f"--out={out}", f"--scale={_SCALE}", "--workers=1") == 0
    return out


def test_lists_and_folders_agree(release: Path) -> None:
    assert sorted(path.name for path in release.iterdir()) == sorted(
        [
            "train_images", "probe_images", "gallery_images", "README.txt",
            "vric_train.txt", "vric_probe.txt", "vric_gallery.txt",
        ]
    )  # fmt: skip
    for split in ("train", "probe", "gallery"):
        names = [name for name, _, _ in _read_list(release / f"vric_{split}.txt")]
        assert len(set(names)) == len(names)
        assert set(names) == {path.name for path in (release / f"{split}_images").iterdir()}


def test_every_image_decodes_to_a_small_crop(release: Path) -> None:
    sizes = []
    for path in sorted(release.rglob("*.jpg")):
        image = cv2.imread(str(path))
        assert image is not None, path
        sizes.append(image.shape[:2])
    sides = np.array(sizes)
    assert sides.min() >= 32
    assert sides.max() <= 200
    assert len(set(sizes)) > 20


@pytest.mark.parametrize("seed", [0, 3])
def test_full_plan_has_vrics_counts(seed: int) -> None:
    plan = release_vric.plan(1.0, seed)
    lists = {}
    for split in ("train", "probe", "gallery"):
        rows = [line.split() for line in plan.texts[f"vric_{split}.txt"].decode().splitlines()]
        lists[split] = [(name, int(identity), int(camera)) for name, identity, camera in rows]
    train_ids, per_id = np.unique([row[1] for row in lists["train"]], return_counts=True)
    assert len(lists["train"]) == 54_808
    assert len(train_ids) == 2_811
    assert per_id.max() <= 40
    probe = {identity: camera for _, identity, camera in lists["probe"]}
    gallery = {identity: camera for _, identity, camera in lists["gallery"]}
    assert len(lists["probe"]) == len(lists["gallery"]) == len(probe) == 2_811
    assert probe.keys() == gallery.keys()
    assert all(probe[identity] != gallery[identity] for identity in probe)
    assert not set(train_ids.tolist()) & probe.keys()
    assert {row[2] for rows in lists.values() for row in rows} == set(range(1, 121))
    # Each picture is listed with the vehicle and camera that it shows.
    listed = {f"{split}_images/{row[0]}": row[1:] for split, rows in lists.items() for row in rows}
    assert listed == {name: (picture.identity, picture.camera + 1) for name, picture in plan.pictures}


@pytest.mark.parametrize("scale", [1e-6, 0.01, 0.1])
def test_counts_follow_the_scale(scale: float) -> None:
    plan = release_vric.plan(scale, 0)
    identities = max(2, round(2_811 * scale))
    assert len(plan.texts["vric_probe.txt"].splitlines()) == identities
    train = plan.texts["vric_train.txt"].decode().splitlines()
    assert len({line.split()[1] for line in train}) == identities
    assert len(train) == pytest.approx(54_808 * scale, abs=2 * identities)


def test_same_bytes_for_another_worker_count(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert _run("--format=vric", f"--out={out}", f"--scale={_SCALE}", "--workers=2") == 0
    assert _digests(out) == _digests(release)


def test_another_seed_gives_another_release(release: Path, tmp_path: Path) -> None:
    assert (release / "vric_probe.txt").read_bytes() != release_vric.plan(_SCALE, 1).texts["vric_probe.txt"]


def test_a_killed_writing_is_finished_by_the_same_command(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [
        sys.executable, "-m", "tfds_builders.synthetic_vehicles.write_release",
        "--format=vric", f"--out={out}", f"--scale={_SCALE}", "--workers=1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("train_images/*.jpg"))) < 40 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert len(written) >= 40
    # What is unfinished does not pass for a release: its lists are missing.
    assert not list(out.glob("vric_*.txt"))
    assert subprocess.run(command, cwd=_ROOT, capture_output=True).returncode == 0
    assert _digests(out) == _digests(release)
    assert all(path.stat().st_mtime_ns == time_written for path, time_written in written.items())


def test_a_folder_with_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert _run("--format=vric", f"--out={tmp_path}", f"--scale={_SCALE}") == 1
    message = capsys.readouterr().err
    assert "is not empty" in message
    assert str(tmp_path) in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_finished_release_is_not_written_again(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--format=vric", f"--out={release}", f"--scale={_SCALE}") == 1
    assert "is not empty" in capsys.readouterr().err


def test_an_unfinished_release_of_other_arguments_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "UNFINISHED.json").write_text(json.dumps({"format": "vric", "scale": 0.5, "seed": 0}))
    assert _run("--format=vric", f"--out={tmp_path}", f"--scale={_SCALE}") == 1
    assert "other arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format=veri", "--out=x"], "--format is 'veri'; expected one of: vric"),
        (["--format=vric", "--out=x", "--scale=0"], "--scale is 0.0; expected a number above 0"),
        (["--format=vric", "--out=x", "--scale=nan"], "--scale is nan"),
        (["--format=vric", "--out=x", "--seed=-1"], "--seed is -1"),
        (["--format=vric", "--out=x", "--workers=0"], "--workers is 0"),
    ],
)
def test_bad_arguments_are_explained(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(*arguments) == 1
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is a file; --out must name a folder"):
        release_writer.write_release(release_vric.plan(1e-6, 0), tmp_path / "file", 1, progress=False)
