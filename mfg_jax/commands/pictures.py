"""Which pictures a command works on: folders, patterns, files, a manifest, or a split of a dataset."""

import csv
import dataclasses
import glob
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mfg_jax.errors import UserError
from mfg_jax.retrieval import NamedFeatures
from mfg_jax.retrieval.calibration import NO_CAMERA

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
NO_IDENTITY = -1


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures and what is known of them.

    Attributes:
        images: N paths, or N encoded files.
        names: N names: paths below `source["root"]`, or those of the dataset.
        ids: `(N,)` int64; `NO_IDENTITY` where `labelled` is false.
        cameras: `(N,)` int64; `NO_CAMERA` where unknown.
        labelled: whether identities are known.
        identities: what the numbers in `ids` stand for, where identities were names.
        source: where the pictures are, as JSON: `root`, or `dataset`, `split` and `data_dir`.
    """

    images: Sequence[Any]
    names: Sequence[str]
    ids: np.ndarray
    cameras: np.ndarray
    labelled: bool
    identities: Mapping[str, str]
    source: Mapping[str, Any]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)


def find_pictures(sources: Sequence[str], *, label_folders: bool = False) -> Pictures:
    """Finds the pictures that folders, patterns and file names stand for.

    Args:
        sources: folders (searched with all below), patterns such as "cars/*.jpg", or picture files; or one manifest:
            a .csv or .parquet file with the column image, and id and camera where known.
        label_folders: the folder that a picture lies in names its vehicle.

    Returns:
        The pictures: of each source in sorted order, of a manifest in its own.

    Raises:
        UserError: a source stands for no picture, or a manifest is malformed.
    """
    manifests = [source for source in sources if source.lower().endswith((".csv", ".parquet"))]
    if manifests:
        if len(sources) > 1:
            raise UserError(f"The manifest {manifests[0]} stands alone; leave out the other pictures.")
        if label_folders:
            raise UserError(
                "The manifest says which vehicle is which, in its column id; leave out --label_folders."
            )
        return _read_manifest(pathlib.Path(manifests[0]))
    paths = [path for source in sources for path in _expand(source)]
    twice = {path for path in paths if paths.count(path) > 1} if len(set(paths)) < len(paths) else set()
    if twice:
        raise UserError(f"The picture {min(twice)} is given twice; sources must not overlap.")
    folders = [path.parent for path in paths]
    if len(sources) == 1 and pathlib.Path(sources[0]).is_dir():
        root = pathlib.Path(sources[0]).absolute()
    else:
        root = pathlib.Path(os.path.commonpath([folder.absolute() for folder in folders]))
    identities = None
    if label_folders:
        loose = [path for path in paths if path.absolute().parent == root]
        if loose:
            raise UserError(
                f"With --label_folders each picture lies in its vehicle's folder, but {loose[0]} lies in none: give "
                "the folder around them, as in FOLDER/<vehicle>/picture.jpg."
            )
        identities = [folder.name for folder in folders]
    names = [path.absolute().relative_to(root).as_posix() for path in paths]
    return _pictures(paths, names, identities, None, {"root": str(root)})


def split_pictures(dataset: str, split: str, data_dir: str | None) -> Pictures:
    """The pictures of a split of a dataset, which is built where it is not prepared yet.

    Raises:
        UserError: there is no such split.
        tfds_builders.errors.DatasetError: there is no such dataset.
    """
    from mfg_jax.data import source  # imports TFDS, which takes its time

    records = source.open_split(source.open_dataset(dataset, data_dir=data_dir), split)
    return Pictures(
        images=_EncodedImages(len(records), records.encoded),
        names=records.names,
        ids=records.ids,
        cameras=records.cameras,
        labelled=True,
        identities={},
        source={"dataset": dataset, "split": split, "data_dir": data_dir},
    )


class _EncodedImages(Sequence[bytes]):
    """A sequence that reads its items when they are asked for."""

    def __init__(self, length: int, read: Callable[[int], bytes]) -> None:
        self._length, self._read = length, read

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._read(index)


def picture_reader(features: NamedFeatures, root: str | None = None) -> Callable[[int], bytes | pathlib.Path]:
    """How to get at the pictures that a features file was made of.

    Args:
        features: what the file holds.
        root: the folder that the pictures are in now, where it is another than before.

    Returns:
        A function of the row: the path of its picture, or the encoded picture.

    Raises:
        UserError: the file does not say where its pictures are.
    """
    source = features.context.get("source", {})
    if root is None and "dataset" in source:
        return split_pictures(source["dataset"], source["split"], source["data_dir"]).images.__getitem__
    if root is None and "root" not in source:
        raise UserError("The features file does not say where its pictures are: give --gallery_root=FOLDER.")
    folder = pathlib.Path(root or source["root"])
    return lambda row: folder / features.names[row]


def _expand(source: str) -> list[pathlib.Path]:
    """The pictures that one source stands for, sorted."""
    path = pathlib.Path(source)
    if path.is_dir():
        found = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not found:
            raise UserError(f"The folder {source} holds no picture ({', '.join(SUFFIXES)}).")
        return found
    if path.exists():
        return [path]
    if glob.has_magic(source):
        found = sorted(pathlib.Path(name) for name in glob.glob(source, recursive=True))
        found = [file for file in found if file.suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(f"The pattern {source!r} stands for no picture ({', '.join(SUFFIXES)}).")
        return found
    raise UserError(f"There is no picture, folder or manifest {source}.")


def _pictures(
    images: Sequence[pathlib.Path],
    names: Sequence[str],
    identities: Sequence[str] | None,
    cameras: Sequence[int] | None,
    source: Mapping[str, Any],
) -> Pictures:
    """Numbers identities: numbers stay, names are numbered in sorted order."""
    numbers: dict[str, int] = {}
    named: dict[str, str] = {}
    if identities is not None:
        every = sorted(set(identities))
        numbers = {name: int(name) for name in every if name.isascii() and name.isdigit()}
        if len(set(numbers.values())) != len(every):
            numbers = {name: number for number, name in enumerate(every)}
            named = {str(number): name for number, name in enumerate(every)}
    return Pictures(
        images=images,
        names=names,
        ids=np.array([numbers[name] for name in identities or ()] or [NO_IDENTITY] * len(names), np.int64),
        cameras=np.array(cameras if cameras is not None else [NO_CAMERA] * len(names), np.int64),
        labelled=identities is not None,
        identities=named,
        source=source,
    )


def _read_manifest(path: pathlib.Path) -> Pictures:
    columns = {name: list(values) for name, values in _read_columns(path).items()}
    if "image" not in columns:
        raise UserError(
            f"The manifest {path} has no column image; its columns are {', '.join(columns) or 'none'}. Expected is a "
            "header such as image,id,camera, of which id and camera may be left out."
        )
    names = columns["image"]
    if not names:
        raise UserError(f"The manifest {path} has no rows.")
    for row, name in enumerate(names, start=1):
        if not name:
            raise UserError(f"The manifest {path}, row {row} below the header: the column image is empty.")
    identities, cameras = columns.get("id"), None
    for row, (name, identity) in enumerate(zip(names, identities or (), strict=False), start=1):
        if not identity:
            raise UserError(
                f"The manifest {path}, row {row} below the header ({name}): the column id is empty. Give every row "
                "its vehicle, or leave the column out."
            )
    if "camera" in columns:
        cameras = []
        for row, (name, camera) in enumerate(zip(names, columns["camera"], strict=True), start=1):
            if camera and not (camera.isascii() and camera.isdigit()):
                raise UserError(
                    f"The manifest {path}, row {row} below the header ({name}): the camera {camera!r} is not a number "
                    "of 0 or more."
                )
            cameras.append(int(camera) if camera else NO_CAMERA)
    root = path.absolute().parent
    return _pictures([root / name for name in names], names, identities, cameras, {"root": str(root)})


def _read_columns(path: pathlib.Path) -> Mapping[str, Iterable[str]]:
    """The columns of a manifest as text, empty where there is no value."""
    if not path.is_file():
        raise UserError(f"There is no manifest {path}.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
            return {
                name: [
                    "" if value is None else str(value).strip() for value in table.column(name).to_pylist()
                ]
                for name in table.column_names
            }
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            lines = []
            for fields in rows:
                if fields and len(fields) != len(header):
                    raise UserError(
                        f"The manifest {path}, line {rows.line_num}: {len(fields)} fields instead of {len(header)} "
                        f"({', '.join(header)})."
                    )
                if fields:
                    lines.append([field.strip() for field in fields])
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"The manifest {path} cannot be read: {error}.") from error
    return {name: [line[place] for line in lines] for place, name in enumerate(header)}
