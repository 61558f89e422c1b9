"""Mutated lists: a parser returns records or raises the one documented error, whatever it is given."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_releases import WRITERS, write_veri_wild

from tfds_builders.build import import_package
from tfds_builders.errors import DatasetError
from tfds_builders.veri776 import compare_index_files

TOKENS = [
    *(b"", b" ", b"\n", b"\r", b"\t", b"\0", b"\x0b", b"\x1c", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(b"-1", b"0", b"007", b"1e3", b"9" * 30, b"0x10", "١٢".encode(), "车".encode(), "车".encode("gb2312")),
    *(
        b"../",
        b"/",
        b"..",
        b"//",
        b"C:\\",
        b"a.jpg",
        b",",
        b";",
        b'"',
        b"'",
        b"<",
        b">",
        b"&",
        b"]]>",
        b"%s{}",
    ),
    *(b'<Item imageName="x" />', b"<!DOCTYPE a>", b"train", b"query", b"\x80", b"x" * 300),
]
_SEPARATORS = (b"\n", b" ", b",", b";")

mutation = st.tuples(
    st.sampled_from(
        ["insert", "replace", "delete", "truncate", "duplicate line", "swap", "drop line", "bytes"]
    ),
    st.floats(0, 1),
    st.sampled_from(TOKENS),
    st.binary(max_size=6),
)


def mutate(data: bytes, kind: str, where: float, token: bytes, noise: bytes) -> bytes:
    position = int(where * len(data))
    lines = data.split(b"\n")
    line = min(int(where * len(lines)), len(lines) - 1)
    match kind:
        case "insert":
            return data[:position] + token + data[position:]
        case "bytes":
            return data[:position] + noise + data[position + len(noise) :]
        case "delete":
            return data[:position] + data[position + 1 + len(noise) :]
        case "truncate":
            return data[:position]
        case "duplicate line":
            return b"\n".join([*lines[:line], lines[line], *lines[line:]])
        case "drop line":
            return b"\n".join(lines[:line] + lines[line + 1 :])
        case "swap":
            return b"\n".join(lines[line:] + lines[:line])
        case _:  # replace one field
            separator = _SEPARATORS[len(noise) % len(_SEPARATORS)]
            fields = data.split(separator)
            fields[min(int(where * len(fields)), len(fields) - 1)] = token
            return separator.join(fields)


def write_newer_veri_wild(root: Path) -> Path:
    return write_veri_wild(root, newer=True)


def read_veri776_with_index_files(root: Path) -> None:
    splits = import_package("veri776").read_annotations(root)
    compare_index_files(root, splits["query"], splits["gallery"])


PARSERS = {name: (writer, import_package(name).read_annotations) for name, writer in WRITERS.items()}
PARSERS["veri_wild, newer"] = (write_newer_veri_wild, import_package("veri_wild").read_annotations)
PARSERS["veri776, index files"] = (WRITERS["veri776"], read_veri776_with_index_files)


def fuzz(name: str, examples: int) -> None:
    writer, read = PARSERS[name]
    with tempfile.TemporaryDirectory() as folder:
        root = writer(Path(folder) / "release")
        for path in root.rglob("*.jpg"):
            path.unlink()
        lists = sorted(path for path in root.rglob("*") if path.is_file())
        originals = {path: path.read_bytes() for path in lists}
        outcomes = {"read": 0, "refused": 0}

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.integers(0, len(lists) - 1), st.lists(mutation, min_size=1, max_size=4))
        @example(0, [("insert", 1.0, b"", b"")])
        def run(index: int, mutations: list) -> None:
            data = originals[lists[index]]
            for one in mutations:
                data = mutate(data, *one)
            lists[index].write_bytes(data)
            try:
                read(root)
            except DatasetError:
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1
            finally:
                lists[index].write_bytes(originals[lists[index]])

        run()
        # Both outcomes must be met often, or the mutations are too tame or too wild to test anything.
        assert min(outcomes.values()) > examples // 50


@pytest.mark.parametrize("name", PARSERS)
def test_mutated_lists_are_read_or_refused(name):
    fuzz(name, examples=150)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_ten_thousand_mutated_lists_are_read_or_refused(name):
    fuzz(name, examples=10_000)


@pytest.mark.parametrize("examples", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_parquet_manifests_are_read_or_refused(tmp_path, examples):
    import pyarrow
    import pyarrow.parquet

    read = import_package("vehicle_csv").read_annotations
    path = tmp_path / "manifest.parquet"
    columns = {"image": ["a.jpg", "b.jpg"], "id": [1, 2], "split": ["train", "train"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    original = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(examples):
        data = bytearray(original)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
        try:
            read(tmp_path)
        except DatasetError:
            refused += 1
    assert refused > examples // 10


def test_mutated_folder_names_are_read_or_refused(tmp_path):
    read = import_package("vehicle_csv").read_annotations
    rng = random.Random(0)
    pieces = ["a", "1", "٣", "..", " ", "\n", "\\", "é", ".jpg", "-", "0"]
    for _ in range(100):
        root = tmp_path / "release"
        for split in ("train", "query", "gallery"):
            for _ in range(rng.randrange(1, 3)):
                identity = "".join(rng.choices(pieces, k=3))
                name = "".join(rng.choices(pieces, k=3)) + rng.choice([".jpg", "", ".JPEG"])
                if {identity, name} & {".", ".."}:
                    continue
                (root / split / identity).mkdir(parents=True, exist_ok=True)
                (root / split / identity / name).touch()
        try:
            splits = read(root)
        except DatasetError:
            pass
        else:
            assert all(splits.values())
        shutil.rmtree(root)
