"""VeRi-776: a picture's identity, camera and frame are in its file name; the XML only adds attributes."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging

from tfds_builders.annotations import (
    count_of,
    join_names,
    parse_integer,
    read_lines,
    read_text,
    refuse_absent_identities,
    refuse_duplicates,
)
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record
from tfds_builders.release import Release, SplitCounts
from tfds_builders.release_builder import ReleaseBuilder
from tfds_builders.veri776.index_files import compare_index_files

_LISTS = {"train": "name_train.txt", "query": "name_query.txt", "gallery": "name_test.txt"}
# The query pictures are also gallery pictures, so their labels are in the gallery's file.
_LABELS = {"train": "train_label.xml", "query": "test_label.xml", "gallery": "test_label.xml"}

# Matched against the whole base name: searching a path would be fooled by a folder called 12_c123.
_NAME = re.compile(r"(\d{4})_c(\d{3})_(\d{8})_(\d+)\.jpg", re.ASCII)
_LINE_FORM = "a name made of vehicle, camera, frame and index, as in '0001_c001_00016450_0.jpg'"

# list_color.txt and list_type.txt, whose numbers start at 1.
_COLORS = ("yellow", "orange", "green", "gray", "red", "blue", "white", "golden", "brown", "black")
_TYPES = ("sedan", "suv", "van", "hatchback", "mpv", "pickup", "bus", "truck", "estate")

RELEASE = Release(
    title="VeRi-776",
    how_to_get=(
        "VeRi-776 is given for non-commercial research only: write to its authors with your full name and "
        "affiliation, at the address on https://vehiclereid.github.io/VeRi."
    ),
    tree="""
        name_train.txt  name_query.txt  name_test.txt
        image_train/    image_query/    image_test/
        train_label.xml  test_label.xml   (optional: colours and types)
        gt_index.txt     jk_index.txt     (optional: compared with the camera rule)
    """,
    markers=(("name_train.txt",), ("name_test.txt",), ("image_train", "image_test")),
    image_folders={"train": "image_train", "query": "image_query", "gallery": "image_test"},
    counts={
        "train": SplitCounts(images=37_778, ids=576, cameras=20),
        "query": SplitCounts(images=1_678, ids=200, cameras=19),
        "gallery": SplitCounts(images=11_579, ids=200, cameras=19),
    },
)


def read_annotations(root: str | Path) -> dict[str, list[Record]]:
    """Reads the lists and, where they are there, the labels of a VeRi-776 release.

    Args:
        root: the folder that holds name_train.txt.

    Returns:
        The records of the splits train, query and gallery (VeRi calls it test), each in its list's order.

    Raises:
        DatasetError: a list is missing or malformed, labels are no XML, or a query's identity is not in the
            gallery.
    """
    root = Path(root)
    labels = {name: _read_labels(root / name) for name in sorted(set(_LABELS.values()))}
    splits: dict[str, list[Record]] = {}
    for split, list_name in _LISTS.items():
        lines = read_lines(root / list_name, columns=1, form=_LINE_FORM)
        attributes = labels[_LABELS[split]]
        splits[split] = []
        for line in lines:
            name = line.image_name()
            base_name = name.rpartition("/")[2]
            match = _NAME.fullmatch(base_name)
            if match is None:
                raise line.error(f"the name {name!r} does not have VeRi's form")
            color, type_ = attributes.get(base_name, (None, None))
            splits[split].append(
                Record(
                    name=name,
                    id=int(match[1]),
                    camera=int(match[2]),
                    color=color,
                    type=type_,
                    frame=int(match[3]),
                )
            )
        refuse_duplicates(lines, (record.name for record in splits[split]))
    refuse_absent_identities(splits["query"], splits["gallery"], root / _LISTS["gallery"])
    return splits


def _read_labels(path: Path) -> dict[str, tuple[str | None, str | None]]:
    """Reads a label file: the (colour, type) of each picture it names; none where there is no such file.

    Items are missing and a few name pictures that are not in the list, so nothing else is taken from it.
    """
    if not path.exists():
        return {}
    # Python's XML parser refuses bytes in a multi-byte encoding, so they are decoded first.
    text = read_text(path, ("gb2312", "utf-8-sig"))
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DatasetError(f"The file {path} is refused: labels declare no document type or entities.")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(
            f"The file {path} is not well-formed XML: {error}. Take it from the release again, or remove it "
            "to build without colours and types."
        ) from None
    return {
        item.get("imageName", ""): (
            _look_up(_COLORS, item.get("colorID", "")),
            _look_up(_TYPES, item.get("typeID", "")),
        )
        for item in tree.iter("Item")
    }


def _look_up(names: tuple[str, ...], number: str) -> str | None:
    """The name of a 1-based number; None for 0, which old copies have, and for anything else."""
    index = parse_integer(number)
    return names[index - 1] if index is not None and 1 <= index <= len(names) else None


class Builder(ReleaseBuilder):
    """TFDS builder of VeRi-776; splits train, query and gallery."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE = RELEASE
    ATTRIBUTES = ("color", "type", "frame")
    MANUAL_DOWNLOAD_INSTRUCTIONS = RELEASE.instructions()
    DESCRIPTION = (
        "VeRi-776 holds 49,357 pictures of 776 vehicles, seen by 20 surveillance cameras of one square "
        "kilometre within 24 hours. Every query picture is in the gallery too; pictures of the query's "
        "vehicle by the query's camera do not count."
    )
    HOMEPAGE = "https://vehiclereid.github.io/VeRi"
    LICENSE = "For non-commercial research only, on request to the authors."
    CITATION = """
        @inproceedings{liu2016deep,
          title = {A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban
                   Surveillance},
          author = {Liu, Xinchen and Liu, Wu and Mei, Tao and Ma, Huadong},
          booktitle = {European Conference on Computer Vision},
          pages = {869--884},
          year = {2016}
        }
    """

    def read_annotations(self, root: Path) -> dict[str, list[Record]]:
        """Reads the lists, and warns where the copy's index files disagree with the camera rule."""
        splits = read_annotations(root)
        comparison = compare_index_files(root, splits["query"], splits["gallery"])
        if comparison is not None and comparison.disagreements:
            logging.warning(
                "VeRi-776 in %s: the index files disagree with the camera rule, which evaluation uses, in %s: %s.",
                root,
                count_of(len(comparison.disagreements), "place"),
                join_names(comparison.disagreements),
            )
        return splits
