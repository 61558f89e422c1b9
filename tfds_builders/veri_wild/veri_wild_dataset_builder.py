"""VERI-Wild, in the form of its first release and of the newer one with three-column lists."""

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.annotations import (
    Line,
    parse_integer,
    read_lines,
    refuse_absent_identities,
    refuse_duplicates,
)
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record
from tfds_builders.release import Release, SplitCounts
from tfds_builders.release_builder import ReleaseBuilder

_TEST_SIZES = (3000, 5000, 10000)
_LIST_FORM = (
    "vehicle/picture.jpg, alone as in '11542/119083.jpg' or with identity and camera as in "
    "'11542/119083.jpg 0 23'"
)
_INFO_FORM = "vehicle/picture;camera;time;model;type;colour, as in '11542/119083;23;2018-03-11 08:15:20;...'"
_INFO_ENCODINGS = ("utf-8-sig", "gb18030")

RELEASE = Release(
    title="VERI-Wild",
    how_to_get=(
        "VERI-Wild is given for research only; https://github.com/PKU-IMRE/VERI-Wild says how to get it."
    ),
    tree="""
        images/             <vehicle>/<picture>.jpg
        train_test_split/   train_list.txt       (newer releases: train_list_start0.txt)
                            test_3000.txt        test_3000_query.txt      (and 5000, 10000;
                            test_3000_id.txt     test_3000_id_query.txt    in newer releases)
                            vehicle_info.txt     (cameras; not needed where the lists have them)
    """,
    markers=(("images", "train_test_split"), ("train_test_split/train_list_start0.txt",)),
    image_folders={"train": "images"}
    | {f"{part}_{size}": "images" for size in _TEST_SIZES for part in ("query", "gallery")},
    counts={
        "train": SplitCounts(images=277_797, ids=30_671),
        **{f"query_{size}": SplitCounts(images=size, ids=size) for size in _TEST_SIZES},
        **{f"gallery_{size}": SplitCounts(ids=size) for size in _TEST_SIZES},
    },
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Info:
    """What vehicle_info.txt says of a picture."""

    camera: int
    model: str | None
    type: str | None
    color: str | None


def read_annotations(root: str | Path) -> dict[str, list[Record]]:
    """Reads the lists of a VERI-Wild release.

    Args:
        root: the folder that holds train_test_split.

    Returns:
        The records of the splits train, query_3000, gallery_3000, query_5000 and so on, each in its list's
        order. Test lists that the copy lacks yield no splits.

    Raises:
        DatasetError: the training list is missing, a list is malformed, or a picture's camera is not known.
    """
    root = Path(root)
    folder = root / "train_test_split"
    info = _read_info(root)
    train = _find_list(folder, "train_list.txt", "train_list_start0.txt")
    if train is None:
        raise DatasetError(
            f"The training list is missing: {folder} holds neither train_list.txt nor train_list_start0.txt."
        )
    splits = {"train": _read_list(train, info)}
    for size in _TEST_SIZES:
        query = _find_list(folder, f"test_{size}_query.txt", f"test_{size}_id_query.txt")
        gallery = _find_list(folder, f"test_{size}.txt", f"test_{size}_id.txt")
        if query is None or gallery is None:
            continue
        splits[f"query_{size}"] = _read_list(query, info)
        splits[f"gallery_{size}"] = _read_list(gallery, info)
        refuse_absent_identities(splits[f"query_{size}"], splits[f"gallery_{size}"], gallery)
    return splits


def _find_list(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _read_list(path: Path, info: dict[str, _Info]) -> list[Record]:
    lines = read_lines(path, columns=None, form=_LIST_FORM)
    records = []
    for line in lines:
        name = line.image_name()
        vehicle, _, picture = name.partition("/")
        # In newer training lists the second column counts from 0; only the path holds the true identity.
        id_ = parse_integer(vehicle)
        if id_ is None or not picture or "/" in picture:
            raise line.error(f"the name {name!r} is not made of a vehicle's number and a picture")
        if len(line.columns) not in (1, 3):
            raise line.error(f"there are {len(line.columns)} columns instead of 1 or 3")
        known = info.get(name.removesuffix(".jpg"))
        camera = _find_camera(line, known, bool(info))
        records.append(
            Record(
                name=name,
                id=id_,
                camera=camera,
                color=known.color if known else None,
                type=known.type if known else None,
                model=known.model if known else None,
            )
        )
    refuse_duplicates(lines, (record.name for record in records))
    return records


def _find_camera(line: Line, known: _Info | None, has_info: bool) -> int:
    if len(line.columns) == 3:
        line.integer(1, "identity")
        return line.integer(2, "camera")
    if known is not None:
        return known.camera
    reason = "does not name it" if has_info else "is missing"
    raise line.error(
        f"the picture's camera is not known: it has no third column and vehicle_info.txt {reason}"
    )


def _read_info(root: Path) -> dict[str, _Info]:
    """Reads vehicle_info.txt by picture, without ".jpg"; none where the copy lacks it."""
    path = _find_list(root, "train_test_split/vehicle_info.txt", "vehicle_info.txt")
    if path is None:
        return {}
    lines = read_lines(path, columns=None, form=_INFO_FORM, encodings=_INFO_ENCODINGS)
    info = {}
    for line in lines[1:]:  # the first line is a header
        fields = [field.strip() for field in line.text.split(";")]
        if len(fields) < 2:
            raise line.error("there is one field instead of two or more")
        camera = parse_integer(fields[1])
        if camera is None:
            raise line.error(f"the camera {fields[1]!r} is not an integer of 0 or more")
        # id/image;Camera ID;Time;Model;Type;Color
        model, type_, color = (fields[3:6] + [""] * 3)[:3]
        info[fields[0].removesuffix(".jpg")] = _Info(camera, model or None, type_ or None, color or None)
    return info


class Builder(ReleaseBuilder):
    """TFDS builder of VERI-Wild; splits train, and query_3000, gallery_3000, ... where the copy has them."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE = RELEASE
    ATTRIBUTES = ("color", "type", "model")
    MANUAL_DOWNLOAD_INSTRUCTIONS = RELEASE.instructions()
    DESCRIPTION = (
        "VERI-Wild holds 416,314 pictures of 40,671 vehicles, seen by 174 surveillance cameras of a large "
        "urban district over a month, in all weather. Pictures of the query's vehicle by the query's camera "
        "do not count."
    )
    HOMEPAGE = "https://github.com/PKU-IMRE/VERI-Wild"
    LICENSE = "For research only."
    CITATION = """
        @inproceedings{lou2019veri,
          title = {VERI-Wild: A Large Dataset and a New Method for Vehicle Re-Identification in the Wild},
          author = {Lou, Yihang and Bai, Yan and Liu, Jun and Wang, Shiqi and Duan, Lingyu},
          booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
          pages = {3235--3243},
          year = {2019}
        }
    """

    def read_annotations(self, root: Path) -> dict[str, list[Record]]:
        """See the module's function of the same name."""
        return read_annotations(root)
