"""The table of bad input: each gives exit status 1, one message that says what and where, and no dataset."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
from small_releases import VRIC, claim_size, encode_jpeg, write, write_veri776, write_vric

from tfds_builders import build

TRAIN_NAME = VRIC["train"][1][0]


def replace_line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = text
    path.write_text("\n".join(lines))


def link_out(root: Path) -> None:
    picture = root / "train_images" / TRAIN_NAME
    secret = write(root.parent / "secret.jpg", picture.read_bytes())
    picture.unlink()
    picture.symlink_to(secret)


# What is done to a good VRIC release, and what the message must hold.
DAMAGE = {
    "missing list": (
        lambda root: (root / "vric_probe.txt").unlink(),
        ["vric_probe.txt is missing"],
    ),
    "missing image": (
        lambda root: (root / "probe_images" / VRIC["query"][0][0]).unlink(),
        ["1 picture of 2", "missing from", "probe_images", VRIC["query"][0][0]],
    ),
    "missing image folder": (
        lambda root: shutil.rmtree(root / "gallery_images"),
        ["image folder", "gallery_images is missing", "2 pictures"],
    ),
    "truncated JPEG": (
        lambda root: write(root / "train_images" / TRAIN_NAME, encode_jpeg()[:-40]),
        ["1 picture of VRIC cannot be read", f"train_images/{TRAIN_NAME} is cut off", "--skip_unreadable"],
    ),
    "not an image": (
        lambda root: write(root / "train_images" / TRAIN_NAME, "<html>404 Not Found</html>"),
        [TRAIN_NAME, "neither a JPEG nor a PNG"],
    ),
    "empty image": (
        lambda root: write(root / "train_images" / TRAIN_NAME, b""),
        [TRAIN_NAME, "empty file"],
    ),
    "60,000 x 60,000 image": (
        lambda root: write(root / "train_images" / TRAIN_NAME, claim_size(60_000, 60_000)),
        [TRAIN_NAME, "60,000 x 60,000 pixels", "not decoded"],
    ),
    "empty list": (
        lambda root: write(root / "vric_gallery.txt", "\n\n"),
        ["vric_gallery.txt is empty", "name, identity and camera"],
    ),
    "wrong column count": (
        lambda root: replace_line(root / "vric_train.txt", 2, f"{TRAIN_NAME} 7"),
        ["vric_train.txt, line 2", "2 columns instead of 3", f"'{TRAIN_NAME} 7'", "'MVI_20011_016_img"],
    ),
    "blank line": (
        lambda root: replace_line(root / "vric_train.txt", 2, ""),
        ["vric_train.txt, line 2", "blank"],
    ),
    "non-integer id": (
        lambda root: replace_line(root / "vric_train.txt", 1, "a.jpg seven 1"),
        ["vric_train.txt, line 1", "the identity 'seven' is not an integer"],
    ),
    "negative camera": (
        lambda root: replace_line(root / "vric_train.txt", 1, "a.jpg 7 -1"),
        ["vric_train.txt, line 1", "the camera '-1' is not an integer"],
    ),
    "duplicate name": (
        lambda root: replace_line(root / "vric_train.txt", 3, f"{TRAIN_NAME} 9 9"),
        ["vric_train.txt, line 3", f"'{TRAIN_NAME}' is already on line 2"],
    ),
    "name with ..": (
        lambda root: replace_line(root / "vric_train.txt", 1, "../secret.jpg 7 1"),
        ["vric_train.txt, line 1", "'../secret.jpg' leads out of the image folder"],
    ),
    "absolute name": (
        lambda root: replace_line(root / "vric_train.txt", 1, "/etc/passwd 7 1"),
        ["vric_train.txt, line 1", "'/etc/passwd' is absolute"],
    ),
    "link out of the folder": (
        link_out,
        [TRAIN_NAME, "symbolic link that leads out", "secret.jpg"],
    ),
    "wrong encoding": (
        lambda root: write(root / "vric_train.txt", "a.jpg 7 1\n".encode("utf-16")),
        ["vric_train.txt is not utf-8 text"],
    ),
    "query id absent from gallery": (
        lambda root: replace_line(root / "vric_probe.txt", 1, f"{VRIC['query'][0][0]} 77 4"),
        ["1 query identity (77) has no picture in the gallery", "vric_gallery.txt"],
    ),
}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_vric(tmp_path / "release")


def run(capsys, *arguments: object) -> tuple[int, str]:
    status = build.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return status, output.err


def assert_no_dataset(data_dir: Path) -> None:
    """Nothing under data_dir passes for a dataset, and nothing half-built is left."""
    assert not list(data_dir.rglob("dataset_info.json"))
    assert not list(data_dir.rglob("*.array_record*"))


@pytest.mark.parametrize("name", DAMAGE)
def test_bad_input_is_refused_with_a_message(name, release, tmp_path, capsys):
    damage, expected = DAMAGE[name]
    damage(release)
    status, message = run(
        capsys, "--dataset=vric", f"--manual_dir={release}", f"--data_dir={tmp_path / 'data'}"
    )
    assert status == 1
    assert "error: " in message
    for part in expected:
        assert part in message
    assert_no_dataset(tmp_path / "data")


def test_the_undamaged_release_builds(release, tmp_path, capsys):
    arguments = ("--dataset=vric", f"--manual_dir={release}", f"--data_dir={tmp_path / 'data'}")
    assert run(capsys, *arguments)[0] == 0


def test_a_missing_release_says_what_to_request_and_where_to_put_it(tmp_path, capsys):
    status, message = run(capsys, "--dataset=vric", f"--data_dir={tmp_path}")
    assert status == 1
    for part in ("qmul-vric", f"{tmp_path}/downloads/manual", "vric_train.txt", "train_images/"):
        assert part in message


def test_a_folder_with_something_else_is_named(tmp_path, capsys):
    write(tmp_path / "photos/holiday.jpg", encode_jpeg())
    status, message = run(
        capsys, "--dataset=vric", f"--manual_dir={tmp_path / 'photos'}", f"--data_dir={tmp_path}"
    )
    assert status == 1
    assert "holds holiday.jpg" in message


def test_two_copies_are_not_guessed_between(tmp_path, capsys):
    for name in ("old", "new"):
        write_vric(tmp_path / "manual" / name)
    status, message = run(
        capsys, "--dataset=vric", f"--manual_dir={tmp_path / 'manual'}", f"--data_dir={tmp_path}"
    )
    assert status == 1
    assert "more than one copy of VRIC" in message


def test_an_unknown_dataset_names_the_known_ones(tmp_path, capsys):
    status, message = run(capsys, "--dataset=vrik", f"--data_dir={tmp_path}")
    assert status == 1
    assert "no dataset 'vrik'; there are" in message
    assert "veri776" in message


def test_an_archive_entry_that_escapes_is_refused(tmp_path, capsys):
    manual = tmp_path / "manual"
    manual.mkdir()
    with zipfile.ZipFile(manual / "VRIC.zip", "w") as archive:
        archive.writestr("vric_train.txt", "a.jpg 1 1\n")
        archive.writestr("../../escaped.txt", "gotcha")
    status, message = run(
        capsys, "--dataset=vric", f"--manual_dir={manual}", f"--data_dir={tmp_path / 'data'}"
    )
    assert status == 1
    assert "'../../escaped.txt' leads out" in message
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_data_dir_that_cannot_be_written_is_named(release, tmp_path, capsys):
    data_dir = write(tmp_path / "file", "not a folder") / "data"
    status, message = run(capsys, "--dataset=vric", f"--manual_dir={release}", f"--data_dir={data_dir}")
    assert status == 1
    assert str(data_dir) in message
    assert "folder you may write to" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_data_dir_is_named(release, tmp_path, capsys):
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o500)
    status, message = run(capsys, "--dataset=vric", f"--manual_dir={release}", f"--data_dir={data_dir}")
    assert status == 1
    assert "folder you may write to" in message


def test_a_veri_name_of_another_form_is_refused(tmp_path, capsys):
    root = write_veri776(tmp_path / "VeRi")
    # A folder whose name looks like a vehicle and camera must not make up for it.
    write(root / "name_train.txt", "0001_c001_00016450_0/picture.jpg\n")
    status, message = run(capsys, "--dataset=veri776", f"--manual_dir={root}", f"--data_dir={tmp_path / 'd'}")
    assert status == 1
    assert "name_train.txt, line 1" in message
    assert "does not have VeRi's form" in message
