"""VRIC, Vehicle Re-Identification in Context: low-resolution, blurred vehicles of traffic cameras."""

from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.annotations import read_lines, refuse_absent_identities, refuse_duplicates
from tfds_builders.records import Record
from tfds_builders.release import Release, SplitCounts
from tfds_builders.release_builder import ReleaseBuilder

_LISTS = {"train": "vric_train.txt", "query": "vric_probe.txt", "gallery": "vric_gallery.txt"}

_LINE_FORM = "name, identity and camera, as in 'MVI_20011_016_img00105.jpg 15 1'"

RELEASE = Release(
    title="VRIC",
    how_to_get=(
        "VRIC is given for research only; https://qmul-vric.github.io says how to get it from its authors."
    ),
    tree="""
        vric_train.txt  vric_probe.txt  vric_gallery.txt
        train_images/   probe_images/   gallery_images/
    """,
    markers=tuple((name,) for name in _LISTS.values()),
    image_folders={"train": "train_images", "query": "probe_images", "gallery": "gallery_images"},
    counts={
        "train": SplitCounts(images=54_808, ids=2_811),
        "query": SplitCounts(images=2_811, ids=2_811),
        "gallery": SplitCounts(images=2_811, ids=2_811),
    },
)


def read_annotations(root: str | Path) -> dict[str, list[Record]]:
    """Reads the lists of a VRIC release; the pictures need not be there.

    Args:
        root: the folder that holds vric_train.txt.

    Returns:
        The records of the splits train, query (VRIC calls it probe) and gallery, each in its list's order.

    Raises:
        DatasetError: a list is missing or malformed, or a query's identity is not in the gallery.
    """
    root = Path(root)
    splits = {}
    for split, list_name in _LISTS.items():
        lines = read_lines(root / list_name, columns=3, form=_LINE_FORM)
        splits[split] = [
            Record(name=line.image_name(0), id=line.integer(1, "identity"), camera=line.integer(2, "camera"))
            for line in lines
        ]
        refuse_duplicates(lines, (record.name for record in splits[split]))
    refuse_absent_identities(splits["query"], splits["gallery"], root / _LISTS["gallery"])
    return splits


class Builder(ReleaseBuilder):
    """TFDS builder of VRIC; splits train, query and gallery."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE = RELEASE
    MANUAL_DOWNLOAD_INSTRUCTIONS = RELEASE.instructions()
    DESCRIPTION = (
        "VRIC (Vehicle Re-Identification in Context) holds 60,430 pictures of 5,622 vehicles, cut out of the "
        "videos of 60 traffic cameras at day and night: low in resolution, blurred and often occluded. Each "
        "test vehicle has one query (probe) and one gallery picture, never from one camera."
    )
    HOMEPAGE = "https://qmul-vric.github.io"
    LICENSE = "For research only, on request to the authors."
    CITATION = """
        @inproceedings{kanaci2018vehicle,
          title = {Vehicle Re-Identification in Context},
          author = {Kanac{\\i}, Aytac and Zhu, Xiatian and Gong, Shaogang},
          booktitle = {Pattern Recognition: 40th German Conference, GCPR 2018},
          year = {2018},
          publisher = {Springer}
        }
    """

    def read_annotations(self, root: Path) -> dict[str, list[Record]]:
        """See the module's function of the same name."""
        return read_annotations(root)
