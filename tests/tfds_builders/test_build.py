"""Building a dataset: what comes out is what went in, and nothing half-built is ever taken for one."""

import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from small_releases import VRIC, WRITERS, encode_jpeg, write, write_vric

from tfds_builders import build, release_builder
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record

PROJECT = Path(build.__file__).parents[1]
RAW = {"image": tfds.decode.SkipDecoding()}


def write_large_vric(root: Path, pictures: int) -> Path:
    """A VRIC release of many tiny pictures, all different and in no sorted order."""
    order = random.Random(0).sample(range(pictures), pictures)
    for split, name in (("train", "train"), ("query", "probe"), ("gallery", "gallery")):
        rows = []
        for number in order if split == "train" else range(5):
            picture = f"{split}_{number}.jpg"
            # A comment segment makes every file different without encoding each anew.
            comment = picture.encode().ljust(40)
            data = encode_jpeg()
            data = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
            write(root / f"{name}_images" / picture, data)
            rows.append(f"{picture} {number % 5} {number % 7}\n")
        write(root / f"vric_{name}.txt", "".join(rows))
    return root


def check_against_release(builder: tfds.core.DatasetBuilder, root: Path) -> None:
    """Record n of every split is line n of its list, with the picture's bytes as they are on disk."""
    package = build.import_package(builder.name)
    splits = package.read_annotations(root)
    assert set(builder.info.splits) == set(splits)
    for split, records in splits.items():
        source = builder.as_data_source(split, decoders=RAW)
        assert len(source) == len(records)
        for example, record in zip(source, records, strict=True):
            path = root / package.RELEASE.image_folders[split] / record.name
            assert example["image"] == path.read_bytes()
            assert example["name"].decode() == record.name
            assert example["id"] == record.id
            assert example["camera"] == (-1 if record.camera is None else record.camera)
            for attribute in ("color", "type", "model"):
                if attribute in example:
                    assert example[attribute].decode() == (getattr(record, attribute) or "")
            if "frame" in example:
                assert example["frame"] == (-1 if record.frame is None else record.frame)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_built_is_what_is_on_disk(name, tmp_path):
    root = WRITERS[name](tmp_path / "release")
    builder = build.build(name, data_dir=tmp_path / "data", manual_dir=root)
    check_against_release(builder, root)


def test_order_is_kept_across_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(release_builder, "_SHARD_BYTES", 20_000)
    root = write_large_vric(tmp_path / "release", 200)
    builder = build.build("vric", data_dir=tmp_path / "data", manual_dir=root)
    assert builder.info.splits["train"].num_shards > 3
    check_against_release(builder, root)


def test_tfds_finds_the_dataset_by_name(tmp_path):
    build.build("vric", data_dir=tmp_path, manual_dir=write_vric(tmp_path / "release"))
    source = tfds.data_source("vric", split="query", data_dir=tmp_path)
    assert [example["id"] for example in source] == [id_ for _, id_, _ in VRIC["query"]]
    assert source[0]["image"].shape == (24, 32, 3)
    info = tfds.builder("vric", data_dir=tmp_path).info
    assert info.splits["train"].num_examples == 3
    assert "research" in info.as_proto.redistribution_info.license
    assert "Kanac" in info.citation
    assert info.homepage
    assert info.description


def test_tensorflow_is_never_imported(tmp_path):
    root = write_vric(tmp_path / "release")
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "from tfds_builders.build import PACKAGES, build, import_package\n"
        "[import_package(name) for name in PACKAGES]\n"
        f"build('vric', data_dir={str(tmp_path)!r}, manual_dir={str(root)!r})\n"
        f"list(tfds.data_source('vric', split='train', data_dir={str(tmp_path)!r}))\n"
        "assert 'tensorflow' not in sys.modules and 'mfg_jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=PROJECT)


@pytest.mark.parametrize("wrapped", ["", "VRIC/", "some/where/"])
def test_the_archive_as_downloaded_builds_like_the_folder(tmp_path, wrapped):
    root = write_vric(tmp_path / "release")
    manual = tmp_path / "data/downloads/manual"
    manual.mkdir(parents=True)
    with zipfile.ZipFile(manual / "VRIC.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, wrapped + str(path.relative_to(root)))
    builder = build.build("vric", data_dir=tmp_path / "data")
    check_against_release(builder, root)


def test_a_built_dataset_is_used_without_its_release(tmp_path):
    root = write_vric(tmp_path / "release")
    first = build.build("vric", data_dir=tmp_path / "data", manual_dir=root)
    stamp = os.stat(Path(first.data_dir) / "dataset_info.json").st_mtime_ns
    root.rename(tmp_path / "moved")
    for manual_dir in (None, root):
        again = build.build("vric", data_dir=tmp_path / "data", manual_dir=manual_dir)
        assert again.info.splits["train"].num_examples == 3
    assert os.stat(Path(first.data_dir) / "dataset_info.json").st_mtime_ns == stamp


def test_changed_lists_are_not_ignored(tmp_path):
    root = write_vric(tmp_path / "release")
    build.build("vric", data_dir=tmp_path / "data", manual_dir=root)
    lines = (root / "vric_train.txt").read_text().splitlines()
    write(root / "vric_train.txt", "\r\n".join(lines))
    build.build("vric", data_dir=tmp_path / "data", manual_dir=root)  # line endings say nothing
    write(root / "vric_train.txt", "\n".join(lines[::-1]))
    with pytest.raises(DatasetError, match="built from other lists"):
        build.build("vric", data_dir=tmp_path / "data", manual_dir=root)
    build.build("vric", data_dir=tmp_path / "data")


def test_counts_that_differ_from_the_official_ones_are_a_warning_with_both_numbers(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        build.build("vric", data_dir=tmp_path, manual_dir=write_vric(tmp_path / "release"))
    assert "the split train has 3 images, the official release 54,808" in caplog.text
    assert "the split query has 2 identities, the official release 2,811" in caplog.text


def test_unreadable_pictures_are_left_out_only_when_asked_and_never_silently(tmp_path, caplog):
    root = write_vric(tmp_path / "release")
    left_out = VRIC["train"][1][0]
    write(root / "train_images" / left_out, b"broken")
    with caplog.at_level(logging.WARNING):
        builder = build.build("vric", data_dir=tmp_path, manual_dir=root, skip_unreadable=True)
    assert f"train_images/{left_out} is neither a JPEG nor a PNG" in caplog.text
    names = [example["name"].decode() for example in builder.as_data_source("train", decoders=RAW)]
    assert names == [name for name, _, _ in VRIC["train"] if name != left_out]
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # the built dataset still says so
        build.build("vric", data_dir=tmp_path)
    assert f"without 1 picture that could not be read: train_images/{left_out}" in caplog.text


def test_a_split_without_any_readable_picture_is_refused(tmp_path):
    root = write_vric(tmp_path / "release")
    for name, _, _ in VRIC["query"]:
        write(root / "probe_images" / name, b"broken")
    with pytest.raises(DatasetError, match="No picture of the split query can be read"):
        build.build("vric", data_dir=tmp_path / "data", manual_dir=root, skip_unreadable=True)
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_a_shard_without_any_readable_picture_is_no_hole(tmp_path, monkeypatch):
    monkeypatch.setattr(release_builder, "_SHARD_BYTES", 20_000)
    root = write_large_vric(tmp_path / "release", 200)
    names = [line.split()[0] for line in (root / "vric_train.txt").read_text().splitlines()]
    for name in names[40:160]:
        write(root / "train_images" / name, b"broken".ljust(1000))
    builder = build.build("vric", data_dir=tmp_path / "data", manual_dir=root, skip_unreadable=True)
    assert 0 in builder.info.splits["train"].shard_lengths
    source = builder.as_data_source("train", decoders=RAW)
    assert [example["name"].decode() for example in source] == names[:40] + names[160:]


def test_a_dataset_that_lost_a_file_is_named(tmp_path):
    builder = build.build("vric", data_dir=tmp_path, manual_dir=write_vric(tmp_path / "release"))
    builder.info.splits["query"].filepaths[0].unlink()
    with pytest.raises(DatasetError, match="lacks its file vric-query"):
        build.build("vric", data_dir=tmp_path)
    (Path(builder.data_dir) / "dataset_info.json").unlink()
    with pytest.raises(DatasetError, match="no complete dataset"):
        build.build("vric", data_dir=tmp_path)


@pytest.mark.parametrize("limit", [3_000, 70_000])
def test_a_full_disk_leaves_no_dataset(tmp_path, limit):
    """A limit on file size makes a write fail as a full disk does, within or at the end of a shard."""
    root = write_large_vric(tmp_path / "release", 150)
    code = (
        "import resource, signal, sys\n"
        "from tfds_builders import build\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.exit(build.main(sys.argv[1:]))\n"
    )
    arguments = ["--dataset=vric", f"--manual_dir={root}", f"--data_dir={tmp_path / 'data'}"]
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 1
    assert "error: There is no room to build vric" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    check_against_release(build.build("vric", data_dir=tmp_path / "data", manual_dir=root), root)


def _start_build(root: Path, data_dir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tfds_builders.build", "--dataset=vric"]
    command += [f"--manual_dir={root}", f"--data_dir={data_dir}"]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill_while_writing(root: Path, data_dir: Path, delay: float) -> bool:
    """Starts a build and kills it some time after it began to write; whether it was killed before its end."""
    process = _start_build(root, data_dir)
    while process.poll() is None and not list(data_dir.rglob("*.array_record*")):
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("attempts", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_a_killed_build_run_again_ends_complete(tmp_path, attempts):
    root = write_large_vric(tmp_path / "release", 1500)
    data_dir = tmp_path / "data"
    killed = 0
    for attempt in range(attempts):
        if _kill_while_writing(root, data_dir, delay=0.02 * attempt):
            killed += 1
        if (data_dir / "vric" / "1.0.0").exists():  # it was killed too late
            check_against_release(build.build("vric", data_dir=data_dir), root)
            (data_dir / "vric" / "1.0.0").rename(tmp_path / f"complete{attempt}")
    assert killed
    builder = build.build("vric", data_dir=data_dir, manual_dir=root)
    check_against_release(builder, root)
    assert not list(data_dir.rglob("incomplete*"))


def test_two_builds_at_once_take_turns(tmp_path):
    root = write_large_vric(tmp_path / "release", 300)
    processes = [_start_build(root, tmp_path / "data") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    check_against_release(build.build("vric", data_dir=tmp_path / "data"), root)


def test_what_another_process_built_meanwhile_is_used(tmp_path, monkeypatch):
    root = write_large_vric(tmp_path / "release", 20)
    lock = build._lock

    @contextlib.contextmanager
    def held_by_another(*arguments):
        monkeypatch.setattr(build, "_lock", lock)
        build.build("vric", data_dir=tmp_path / "data", manual_dir=root)
        with lock(*arguments):
            yield

    monkeypatch.setattr(build, "_lock", held_by_another)
    check_against_release(build.build("vric", data_dir=tmp_path / "data", manual_dir=root), root)


def test_one_s_own_datasets_live_side_by_side(tmp_path, caplog):
    for name, identity in (("north", 1), ("south", 2)):
        write(tmp_path / name / "manifest.csv", f"image,id,split\na.jpg,{identity},train\n")
        write(tmp_path / name / "a.jpg", encode_jpeg())
        build.build(f"vehicle_csv/{name}", data_dir=tmp_path / "data", manual_dir=tmp_path / name)
    for name, identity in (("north", 1), ("south", 2)):
        builder = build.build(f"vehicle_csv/{name}", data_dir=tmp_path / "data")
        assert "configuration" not in caplog.text  # TFDS's warning of a name that it does not know
        assert builder.as_data_source("train")[0]["id"] == identity
        source = tfds.data_source(f"vehicle_csv/{name}", split="train", data_dir=tmp_path / "data")
        assert source[0]["id"] == identity


def test_shards_cover_a_split_in_order():
    rng = random.Random(1)
    for _ in range(200):
        sizes = [rng.randrange(1, 10**9) for _ in range(rng.randrange(1, 50))]
        shards = release_builder._split_into_shards(sizes)
        assert [index for start, stop in shards for index in range(start, stop)] == list(range(len(sizes)))
        assert all(start < stop for start, stop in shards)


def test_the_split_statistics_are_stored(tmp_path):
    builder = build.build("vric", data_dir=tmp_path, manual_dir=write_vric(tmp_path / "release"))
    stored = json.loads((Path(builder.data_dir) / "dataset_info.json").read_text())
    assert {split["name"]: split["shardLengths"] for split in stored["splits"]} == {
        "train": ["3"],
        "query": ["2"],
        "gallery": ["2"],
    }
    assert builder.info.metadata["statistics"] == {
        "train": {"images": 3, "ids": 2, "cameras": 3},
        "query": {"images": 2, "ids": 2, "cameras": 2},
        "gallery": {"images": 2, "ids": 2, "cameras": 2},
    }


def test_records_are_immutable():
    with pytest.raises(AttributeError):
        Record("a.jpg", 1).id = 2
