"""One's own pictures, described by manifest.csv, by manifest.parquet, or by a folder for each identity."""

import csv
import dataclasses
import difflib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds
from absl import logging

from tfds_builders.annotations import (
    count_of,
    find_name_problem,
    join_names,
    parse_integer,
    read_text,
    refuse_absent_identities,
)
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record
from tfds_builders.release import Release
from tfds_builders.release_builder import ReleaseBuilder

_SPLITS = ("train", "query", "gallery")
_REQUIRED = ("image", "id", "split")
_OPTIONAL = ("camera", "color", "type", "model", "frame")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_FORM = "image,id,camera,split, as in 'front/0001.jpg,17,3,train'; the column camera may be left out"

RELEASE = Release(
    title="Your dataset",
    how_to_get=(
        "It is described by a manifest with the columns image,id,camera,split (camera may be left out; "
        "split is train, query or gallery; images are named from the manifest's folder), or by folders."
    ),
    tree="""
        manifest.csv  or  manifest.parquet        and the images it names, anywhere below
    or
        train/<identity>/*.jpg   query/<identity>/*.jpg   gallery/<identity>/*.jpg
    """,
    markers=(("manifest.csv",), ("manifest.parquet",), ("query", "gallery"), ("train",)),
    image_folders=dict.fromkeys(_SPLITS, "."),
    counts={},
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """One row of a manifest, as text, and where it stands."""

    place: str
    values: Mapping[str, str]

    def error(self, problem: str) -> DatasetError:
        shown = ",".join(self.values.values())[:80]
        return DatasetError(f"{self.place}: {problem}. The row is {shown!r}; expected is {_FORM}.")

    def integer(self, column: str) -> int:
        value = parse_integer(self.values[column])
        if value is None:
            raise self.error(f"the {column} {self.values[column]!r} is not an integer of 0 or more")
        return value

    def optional_integer(self, column: str) -> int | None:
        return self.integer(column) if self.values.get(column) else None


def read_annotations(root: str | Path) -> dict[str, list[Record]]:
    """Reads a manifest or, where there is none, the names of the folders.

    Args:
        root: the folder that holds manifest.csv, manifest.parquet, or the folders train, query and gallery.

    Returns:
        The records of the splits train, query and gallery, as far as they have any: in the manifest's order,
        or in the sorted order of folders and files. Images are named from `root`.

    Raises:
        DatasetError: the manifest is malformed, or there is a query without gallery or the reverse.
    """
    root = Path(root)
    manifests = [root / name for name in ("manifest.csv", "manifest.parquet") if (root / name).exists()]
    if len(manifests) > 1:
        raise DatasetError(f"{root} holds both manifest.csv and manifest.parquet; remove one.")
    if not manifests:
        splits = _read_folders(root)
        source = root
    else:
        source = manifests[0]
        rows = _iterate_csv(source) if source.suffix == ".csv" else _iterate_parquet(source)
        splits = _read_rows(rows)
        if not splits:
            raise DatasetError(f"The manifest {source} has no rows; every row should be {_FORM}.")
    for one, other in (("query", "gallery"), ("gallery", "query")):
        if one in splits and other not in splits:
            raise DatasetError(
                f"{source} has {count_of(len(splits[one]), 'image')} in the split {one} but none in the "
                f"split {other}. An evaluation needs both; add images to {other}, or leave out both."
            )
    if "query" in splits:
        refuse_absent_identities(splits["query"], splits["gallery"], source)
        shared = {record.id for record in splits.get("train", ())} & {
            record.id for split in ("query", "gallery") for record in splits[split]
        }
        if shared:
            logging.warning(
                "%s: the split train shares %s with query or gallery (%s). Results on vehicles seen in "
                "training say little about new ones.",
                source,
                count_of(len(shared), "identity", "identities"),
                join_names(str(id_) for id_ in sorted(shared)),
            )
    return splits


def _read_rows(rows: Iterator[_Row]) -> dict[str, list[Record]]:
    splits: dict[str, list[Record]] = {split: [] for split in _SPLITS}
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        name, split = row.values["image"], row.values["split"]
        problem = find_name_problem(name)
        if problem is not None:
            raise row.error(f"the image {name!r} {problem}")
        if split not in splits:
            raise row.error(f"the split {split!r} is none of train, query and gallery")
        if (split, name) in first:
            raise row.error(f"the image {name!r} is already in the split {split}, at {first[split, name]}")
        first[split, name] = row.place
        splits[split].append(
            Record(
                name=name,
                id=row.integer("id"),
                camera=row.optional_integer("camera"),
                color=row.values.get("color") or None,
                type=row.values.get("type") or None,
                model=row.values.get("model") or None,
                frame=row.optional_integer("frame"),
            )
        )
    return {split: records for split, records in splits.items() if records}


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for column in _REQUIRED:
        if column not in columns:
            raise DatasetError(
                f"The manifest {path} has no column {column!r}; its columns are {join_names(columns)}. "
                f"Expected is a header and rows like {_FORM}."
            )
    if len(set(columns)) != len(columns):
        raise DatasetError(f"The manifest {path} has a column twice; its columns are {', '.join(columns)}.")
    for column in columns:
        if column not in _REQUIRED + _OPTIONAL:
            near = difflib.get_close_matches(column, _REQUIRED + _OPTIONAL, n=1, cutoff=0.5)
            raise DatasetError(
                f"The manifest {path} has an unknown column {column!r}"
                + (f"; did you mean {near[0]!r}?" if near else ".")
                + f" Known columns are {', '.join(_REQUIRED + _OPTIONAL)}."
            )


def _iterate_csv(path: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(path, header)
        for fields in reader:
            if not fields:  # a blank line
                continue
            place = f"{path}, line {reader.line_num}"
            row = _Row(place, dict(zip(header, (field.strip() for field in fields), strict=False)))
            if len(fields) != len(header):
                raise row.error(f"there are {count_of(len(fields), 'column')} instead of {len(header)}")
            yield row
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}. Expected is {_FORM}.") from None


def _iterate_parquet(path: Path) -> Iterator[_Row]:
    try:
        table = pyarrow.parquet.read_table(path)
        columns, rows = table.column_names, table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The manifest {path} is no readable Parquet file: {error}") from None
    _check_columns(path, columns)
    for number, values in enumerate(rows, start=1):
        yield _Row(
            f"{path}, row {number}",
            {name: "" if value is None else str(value).strip() for name, value in values.items()},
        )


def _read_folders(root: Path) -> dict[str, list[Record]]:
    """Reads train/<identity>/*.jpg and so on; identities that are no numbers are numbered in sorted order."""
    identities: dict[str, list[str]] = {}
    for split in _SPLITS:
        if (root / split).is_dir():
            identities[split] = sorted(entry.name for entry in os.scandir(root / split) if entry.is_dir())
            if not identities[split]:
                raise DatasetError(
                    f"The folder {root / split} holds no folder for an identity; its images should be in "
                    f"{split}/<identity>/."
                )
    every = sorted({name for names in identities.values() for name in names})
    numbers = {name: parse_integer(name) for name in every}
    if None in numbers.values() or len(set(numbers.values())) != len(every):
        numbers = {name: index for index, name in enumerate(every)}
    splits: dict[str, list[Record]] = {}
    ignored = []
    for split, names in identities.items():
        splits[split] = []
        for identity in names:
            for file_name in sorted(os.listdir(root / split / identity)):
                name = f"{split}/{identity}/{file_name}"
                if not file_name.lower().endswith(_IMAGE_SUFFIXES):
                    ignored.append(name)
                    continue
                problem = find_name_problem(name)
                number = numbers[identity]
                assert number is not None
                if problem is not None:
                    raise DatasetError(f"The image {name!r} below {root} {problem}; rename it.")
                splits[split].append(Record(name=name, id=number))
        if not splits[split]:
            raise DatasetError(f"The folder {root / split} holds no image (*.jpg, *.jpeg or *.png).")
    if ignored:
        logging.warning(
            "%s: %s left out, being no image (*.jpg, *.jpeg or *.png): %s.",
            root,
            count_of(len(ignored), "file was", "files were"),
            join_names(ignored),
        )
    return splits


class Builder(ReleaseBuilder):
    """TFDS builder of one's own pictures; splits train, query and gallery as far as they have pictures.

    Several datasets live side by side as TFDS configs of any name: "vehicle_csv/my_cameras".
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE = RELEASE
    ATTRIBUTES = ("color", "type", "model", "frame")
    MANUAL_DOWNLOAD_INSTRUCTIONS = RELEASE.instructions()
    DESCRIPTION = "One's own pictures of vehicles, described by a manifest or by a folder for each identity."
    HOMEPAGE = ""
    LICENSE = ""
    CITATION = ""

    def __init__(self, *, config: str | tfds.core.BuilderConfig | None = None, **kwargs: Any):
        if isinstance(config, str):
            config = tfds.core.BuilderConfig(name=config, description="One's own pictures of vehicles.")
        super().__init__(config=config, **kwargs)

    def read_annotations(self, root: Path) -> dict[str, list[Record]]:
        """See the module's function of the same name."""
        return read_annotations(root)
