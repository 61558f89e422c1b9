"""Unpacking of archives that may be damaged, interrupted or malicious."""

import io
import random
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tfds_builders import archives
from tfds_builders.errors import DatasetError

FILES = {"VRIC/vric_train.txt": b"a.jpg 1 1\n", "VRIC/train_images/a.jpg": bytes(range(256)) * 9}


def make_zip(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("VRIC/empty")
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes] = FILES) -> Path:
    compression = {".tar": "", ".gz": "gz", ".tgz": "gz", ".xz": "xz", ".bz2": "bz2"}[path.suffix]
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make(path: Path, files: dict[str, bytes] = FILES) -> Path:
    return make_zip(path, files) if path.suffix == ".zip" else make_tar(path, files)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_files_come_out_as_they_went_in(tmp_path, name):
    folder = archives.unpack(make(tmp_path / name), tmp_path / "out")
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [folder.name]


def test_an_unpacked_archive_is_used_again_and_a_changed_one_is_not(tmp_path):
    path = make(tmp_path / "a.zip")
    folder = archives.unpack(path, tmp_path / "out")
    mark = folder / "mark"
    mark.touch()
    assert archives.unpack(path, tmp_path / "out") == folder
    assert mark.exists()
    other = archives.unpack(make(path, FILES | {"VRIC/more.txt": b"1"}), tmp_path / "out")
    assert other != folder
    assert (other / "VRIC/more.txt").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../escaped", "VRIC/../../escaped", "/tmp/escaped", "a\\..\\..\\escaped"])
def test_entries_that_leave_the_folder_are_refused(tmp_path, kind, name):
    path = make(tmp_path / f"a.{kind}", FILES | {name: b"gotcha"})
    with pytest.raises(DatasetError, match="is refused: its entry"):
        archives.unpack(path, tmp_path / "out")
    assert not list(tmp_path.rglob("*escaped*"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, type_):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("VRIC/train_images")
        info.type, info.linkname = type_, "/etc"
        archive.addfile(info)
    with pytest.raises(DatasetError, match="is a link or a device"):
        archives.unpack(tmp_path / "a.tar", tmp_path / "out")


def test_links_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("VRIC/train_images")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
    with pytest.raises(DatasetError, match="is a link or a device"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_decompression_bomb_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(120 << 20)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DatasetError, match="would unpack to 125,829,120"):
        archives.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_entry_larger_than_it_declares_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(5000)})
    data = path.read_bytes()
    # The size in the central directory is what zipfile reports.
    start = data.rindex(b"PK\x01\x02")
    path.write_bytes(data[: start + 24] + (10).to_bytes(4, "little") + data[start + 28 :])
    with pytest.raises(DatasetError, match=r"damaged|cannot be read"):
        archives.unpack(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.9])
def test_an_incomplete_download_is_named(tmp_path, name, keep):
    path = make(tmp_path / name)
    data = path.read_bytes()
    # Tar ends in long padding, without which it is still whole.
    whole = len(data.rstrip(b"\0")) if name.endswith("tar") else len(data)
    path.write_bytes(data[: int(whole * keep)])
    with pytest.raises(DatasetError, match=r"cannot be read|damaged"):
        archives.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
@pytest.mark.parametrize("examples", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_archives_are_unpacked_or_refused(tmp_path, name, examples):
    """Flipped bytes and cuts end in the documented error, and leave nothing that looks unpacked."""
    path = make(tmp_path / name)
    original = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(examples):
        data = bytearray(original)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
        try:
            folder = archives.unpack(path, tmp_path / "out")
        except DatasetError:
            refused += 1
            assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        else:
            assert set(tmp_path.rglob("*")) >= {folder, path}
            assert {entry.name for entry in tmp_path.iterdir()} == {name, "out"}
            shutil.rmtree(tmp_path / "out")
    assert refused > examples // 10


def test_an_encrypted_archive_asks_to_be_unpacked_by_hand(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"a.txt": b"secret"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(signature) + offset] |= 1  # the flag of encryption
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match="unpack it by hand with the password"):
        archives.unpack(path, tmp_path / "out")


def test_what_an_interrupted_run_left_is_replaced(tmp_path):
    path = make(tmp_path / "a.zip")
    folder = archives.unpack(path, tmp_path / "out")
    folder.rename(folder.with_name(f"incomplete.{folder.name}"))
    (folder.with_name(f"incomplete.{folder.name}") / "stale").touch()
    assert not (archives.unpack(path, tmp_path / "out") / "stale").exists()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [folder.name]
