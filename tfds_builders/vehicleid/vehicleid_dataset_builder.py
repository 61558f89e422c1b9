"""VehicleID: one list of pictures for each test size, and no cameras."""

from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.annotations import read_lines, refuse_duplicates
from tfds_builders.records import Record
from tfds_builders.release import Release, SplitCounts
from tfds_builders.release_builder import ReleaseBuilder

_TEST_SIZES = (800, 1600, 2400, 3200, 6000, 13164)
_LIST_FORM = "picture number and vehicle identity, as in '0000001 0'"
_NAME_LIST_FORM = "a name and its number, as in 'black 0'"
_ATTRIBUTE_FORM = "vehicle identity and number, as in '12 3'"
# Model names are Chinese; copies are met in UTF-8 and in the encodings of Chinese Windows.
_NAME_ENCODINGS = ("utf-8-sig", "gb18030")
_MISSPELT_COLORS = {"sliver": "silver"}

RELEASE = Release(
    title="VehicleID",
    how_to_get=(
        "VehicleID (PKU VehicleID V1.0) is given for research only, after an agreement is signed: see "
        "https://www.pkuml.org/resources/pku-vehicleid.html."
    ),
    tree="""
        image/              0000001.jpg ...
        train_test_split/   train_list.txt  test_list_800.txt  test_list_1600.txt  test_list_2400.txt
                            (test_list_3200.txt, _6000 and _13164 where the copy has them)
        attribute/          (optional) color_attr.txt  model_attr.txt  color_names.txt  model_names.txt
    """,
    markers=(("image", "train_test_split"), ("train_test_split/test_list_800.txt",)),
    image_folders={"train": "image"} | {f"test_{size}": "image" for size in _TEST_SIZES},
    counts={
        "train": SplitCounts(images=113_346, ids=13_164),
        "test_800": SplitCounts(images=6_493, ids=800),
        "test_1600": SplitCounts(images=13_377, ids=1_600),
        "test_2400": SplitCounts(images=19_777, ids=2_400),
        "test_3200": SplitCounts(ids=3_200),
        "test_6000": SplitCounts(ids=6_000),
        "test_13164": SplitCounts(ids=13_164),
    },
)


def read_annotations(root: str | Path) -> dict[str, list[Record]]:
    """Reads the lists and, where they are there, the attributes of a VehicleID release.

    Args:
        root: the folder that holds train_test_split.

    Returns:
        The records of the splits train, test_800, test_1600 and so on, each in its list's order. A test list
        that the copy lacks yields no split.

    Raises:
        DatasetError: the training list is missing, or a file is malformed.
    """
    root = Path(root)
    colors = _read_attribute(root / "attribute", "color")
    models = _read_attribute(root / "attribute", "model")
    lists = {"train": root / "train_test_split" / "train_list.txt"}
    for size in _TEST_SIZES:
        path = root / "train_test_split" / f"test_list_{size}.txt"
        if path.exists():
            lists[f"test_{size}"] = path
    splits = {}
    for split, path in lists.items():
        lines = read_lines(path, columns=2, form=_LIST_FORM)
        records = []
        for line in lines:
            line.integer(0, "picture number")
            id_ = line.integer(1, "identity")
            color = colors.get(id_)
            records.append(
                Record(
                    name=f"{line.columns[0]}.jpg",
                    id=id_,
                    color=_MISSPELT_COLORS.get(color, color) if color is not None else None,
                    model=models.get(id_),
                )
            )
        refuse_duplicates(lines, (record.name for record in records))
        splits[split] = records
    return splits


def _read_attribute(folder: Path, attribute: str) -> dict[int, str]:
    """Reads an attribute of the vehicles that have it; none where the copy lacks its two files."""
    paths = folder / f"{attribute}_names.txt", folder / f"{attribute}_attr.txt"
    if not all(path.exists() for path in paths):
        return {}
    names = {}
    for line in read_lines(paths[0], columns=None, form=_NAME_LIST_FORM, encodings=_NAME_ENCODINGS):
        if len(line.columns) < 2:
            raise line.error("there is one column instead of two or more")
        names[line.integer(-1, "number")] = " ".join(line.columns[:-1])
    values = {}
    for line in read_lines(paths[1], columns=2, form=_ATTRIBUTE_FORM):
        number = line.integer(1, f"{attribute} number")
        if number not in names:
            raise line.error(f"the {attribute} number {number} is not in {paths[0].name}")
        values[line.integer(0, "identity")] = names[number]
    return values


class Builder(ReleaseBuilder):
    """TFDS builder of VehicleID; splits train and test_800, test_1600, ... as far as the copy has them."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE = RELEASE
    ATTRIBUTES = ("color", "model")
    MANUAL_DOWNLOAD_INSTRUCTIONS = RELEASE.instructions()
    DESCRIPTION = (
        "VehicleID holds 221,567 pictures of 26,328 vehicles, from the front or from behind, by day, in a "
        "small city in China. It names no cameras. For each draw of its protocol one random picture of every "
        "vehicle forms the gallery and all others are probes; ten draws are averaged."
    )
    HOMEPAGE = "https://www.pkuml.org/resources/pku-vehicleid.html"
    LICENSE = "For research only, after signing the authors' agreement."
    CITATION = """
        @inproceedings{liu2016deep,
          title = {Deep Relative Distance Learning: Tell the Difference Between Similar Vehicles},
          author = {Liu, Hongye and Tian, Yonghong and Wang, Yaowei and Pang, Lu and Huang, Tiejun},
          booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
          pages = {2167--2175},
          year = {2016}
        }
    """

    def read_annotations(self, root: Path) -> dict[str, list[Record]]:
        """See the module's function of the same name."""
        return read_annotations(root)
