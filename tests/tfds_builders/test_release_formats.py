"""Each official form, read as its facts say: known values, irregularities and attributes."""

import logging

import pyarrow
import pyarrow.parquet
import pytest
from small_releases import (
    CSV_ROWS,
    VERI_GALLERY,
    VERI_QUERY,
    VERI_TRAIN,
    VRIC,
    WRITERS,
    encode_jpeg,
    write,
    write_labels,
    write_vehicle_csv,
    write_vehicleid,
    write_veri776,
    write_veri_wild,
    write_vric,
)

from tfds_builders import vehicle_csv, vehicleid, veri776, veri_wild, vric
from tfds_builders.build import import_package
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record


@pytest.mark.parametrize("name", WRITERS)
def test_annotations_need_no_pictures(name, tmp_path):
    root = WRITERS[name](tmp_path)
    package = import_package(name)
    expected = package.read_annotations(root)
    for path in list(root.rglob("*.jpg")):
        path.unlink()
    assert package.read_annotations(root) == expected


def test_vric(tmp_path):
    splits = vric.read_annotations(write_vric(tmp_path))
    assert splits == {split: [Record(*row) for row in rows] for split, rows in VRIC.items()}


def test_veri776_takes_identity_camera_and_frame_from_the_name(tmp_path):
    splits = veri776.read_annotations(write_veri776(tmp_path))
    assert [record.name for record in splits["train"]] == VERI_TRAIN
    assert [record.name for record in splits["query"]] == VERI_QUERY
    assert [record.name for record in splits["gallery"]] == VERI_GALLERY
    assert [(record.id, record.camera, record.frame) for record in splits["train"]] == [
        (1, 1, 16450),
        (1, 2, 16460),
        (3, 20, 5),
    ]


def test_veri776_labels_only_add_colour_and_type(tmp_path):
    root = write_veri776(tmp_path)
    train = veri776.read_annotations(root)["train"]
    assert [(record.color, record.type) for record in train] == [
        ("yellow", "hatchback"),
        (None, None),  # not in the label file
        ("black", None),  # type 0 of old copies
    ]
    query = veri776.read_annotations(root)["query"]
    assert {(record.color, record.type) for record in query} == {("orange", "estate")}
    (root / "train_label.xml").unlink()
    (root / "test_label.xml").unlink()
    without = veri776.read_annotations(root)
    assert [record.id for record in without["train"]] == [record.id for record in train]
    assert {record.color for records in without.values() for record in records} == {None}


def test_veri776_labels_that_disagree_do_not_change_identities(tmp_path):
    root = write_veri776(tmp_path)
    text = (root / "train_label.xml").read_bytes().replace(b'vehicleID="0001"', b'vehicleID="0500"')
    write(root / "train_label.xml", text)
    assert [record.id for record in veri776.read_annotations(root)["train"]] == [1, 1, 3]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"<TrainingImages><Items>", "not well-formed XML"),
        (b"", "not well-formed XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type or entities"),
        (b"\xff\xfe<\x00", "is not gb2312 or utf-8 text"),
    ],
)
def test_veri776_broken_labels_are_refused(tmp_path, text, problem):
    root = write_veri776(tmp_path)
    write(root / "train_label.xml", text)
    with pytest.raises(DatasetError, match=problem):
        veri776.read_annotations(root)


def test_veri776_labels_in_utf8_are_read_too(tmp_path):
    root = write_veri776(tmp_path)
    write_labels(root / "train_label.xml", "TrainingImages", [(VERI_TRAIN[0], 5, 7)])
    text = (root / "train_label.xml").read_bytes().decode("gb2312")
    write(root / "train_label.xml", text.replace("gb2312", "utf-8").replace("车辆", "车辆 – €"))
    assert veri776.read_annotations(root)["train"][0].type == "bus"


def test_vehicleid(tmp_path):
    splits = vehicleid.read_annotations(write_vehicleid(tmp_path))
    assert list(splits) == ["train", "test_800", "test_1600"]  # this copy lacks the other lists
    assert splits["train"] == [
        # Vehicle 0 is a real identity; the release's "sliver" is silver.
        Record("0000001.jpg", 0, color="silver", model="奥迪 A6L"),
        Record("0000003.jpg", 0, color="silver", model="奥迪 A6L"),
        Record("0000010.jpg", 12, model="大众朗逸"),
    ]
    assert splits["test_800"][0] == Record("0000020.jpg", 5, color="black")
    assert [record.id for record in splits["test_800"]] == [5, 5, 5, 8, 8]


def test_vehicleid_model_names_are_met_in_utf8_too(tmp_path):
    root = write_vehicleid(tmp_path)
    first = vehicleid.read_annotations(root)
    path = root / "attribute/model_names.txt"
    write(path, path.read_bytes().decode("gb18030"))
    assert vehicleid.read_annotations(root) == first


def test_vehicleid_without_attributes(tmp_path):
    root = write_vehicleid(tmp_path)
    for path in (root / "attribute").iterdir():
        path.unlink()
    assert vehicleid.read_annotations(root)["train"][0] == Record("0000001.jpg", 0)


def test_vehicleid_needs_its_training_list(tmp_path):
    root = write_vehicleid(tmp_path)
    (root / "train_test_split/train_list.txt").unlink()
    with pytest.raises(DatasetError, match=r"train_list\.txt is missing"):
        vehicleid.read_annotations(root)


@pytest.mark.parametrize("newer", [False, True])
def test_veri_wild_has_the_same_identities_and_cameras_in_both_forms(tmp_path, newer):
    splits = veri_wild.read_annotations(write_veri_wild(tmp_path, newer=newer))
    found = {split: [(r.name, r.id, r.camera) for r in records] for split, records in splits.items()}
    assert found == {
        "train": [("11/1.jpg", 11, 3), ("11/2.jpg", 11, 4), ("12/3.jpg", 12, 3)],
        "query_3000": [("31000/4.jpg", 31000, 5), ("31001/6.jpg", 31001, 7)],
        "gallery_3000": [("31000/5.jpg", 31000, 6), ("31001/7.jpg", 31001, 174)],
    }
    model = None if newer else "奥迪A6"
    assert {record.model for records in splits.values() for record in records} == {model}


def test_veri_wild_names_the_picture_whose_camera_is_not_known(tmp_path):
    root = write_veri_wild(tmp_path)
    path = root / "train_test_split/vehicle_info.txt"
    lines = path.read_bytes().split(b"\n")
    write(path, b"\n".join(line for line in lines if not line.startswith(b"11/2;")))
    with pytest.raises(DatasetError, match=r"train_list\.txt, line 2: .* vehicle_info\.txt does not name it"):
        veri_wild.read_annotations(root)
    path.unlink()
    with pytest.raises(DatasetError, match=r"vehicle_info\.txt is missing"):
        veri_wild.read_annotations(root)


def test_csv_keeps_the_manifest_s_order_and_leaves_unknown_cameras_open(tmp_path):
    splits = vehicle_csv.read_annotations(write_vehicle_csv(tmp_path))
    assert splits == {
        "train": [Record("a/1.jpg", 3, 1), Record("a/2.jpg", 4)],
        "query": [Record("q.jpg", 9, 2)],
        "gallery": [Record("g.jpg", 9, 3)],
    }


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("\n", "\r\n") + "\r\n",
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("a/1.jpg", '"a/1.jpg"') + "\n\n",
    ],
    ids=["CRLF", "byte order mark", "spaces", "quotes"],
)
def test_csv_as_spreadsheets_write_it(tmp_path, rewrite):
    expected = vehicle_csv.read_annotations(write_vehicle_csv(tmp_path))
    write(tmp_path / "manifest.csv", rewrite("\n".join(CSV_ROWS)))
    assert vehicle_csv.read_annotations(tmp_path) == expected


def test_parquet_says_the_same_as_csv(tmp_path):
    expected = vehicle_csv.read_annotations(write_vehicle_csv(tmp_path / "csv"))
    table = pyarrow.table(
        {
            "image": ["a/1.jpg", "a/2.jpg", "q.jpg", "g.jpg"],
            "id": [3, 4, 9, 9],
            "camera": [1, None, 2, 3],
            "split": ["train", "train", "query", "gallery"],
        }
    )
    (tmp_path / "parquet").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "parquet/manifest.parquet")
    assert vehicle_csv.read_annotations(tmp_path / "parquet") == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column 'image'"),
        ("image,id\na.jpg,1\n", "no column 'split'"),
        ("image,id,split,camera_id\na.jpg,1,train,2\n", "unknown column 'camera_id'; did you mean 'camera'"),
        ("image,id,split,id\na.jpg,1,train,2\n", "has a column twice"),
        ("image,id,split\n", "has no rows"),
        ("image,id,split\na.jpg,1\n", "line 2: there are 2 columns instead of 3"),
        ("image,id,split\na.jpg,one,train\n", "line 2: the id 'one' is not an integer"),
        ("image,id,split\na.jpg,1,test\n", "the split 'test' is none of train, query and gallery"),
        ("image,id,split\n../a.jpg,1,train\n", "leads out of the image folder"),
        (
            "image,id,split\na.jpg,1,train\na.jpg,1,train\n",
            "line 3: .* already in the split train, at .* line 2",
        ),
        ("image,id,split,camera\na.jpg,1,train,x\n", "the camera 'x' is not an integer"),
        ('image,id,split\n"a.jpg,1,train\n', "unexpected end of data"),
        ("image,id,split\na.jpg,1,query\n", "1 image in the split query but none in the split gallery"),
        ("image,id,split\na.jpg,1,query\nb.jpg,2,gallery\n", r"query identity \(1\) has no picture"),
    ],
)
def test_csv_faults_are_named(tmp_path, text, problem):
    write(tmp_path / "manifest.csv", text)
    with pytest.raises(DatasetError, match=problem):
        vehicle_csv.read_annotations(tmp_path)


def test_a_parquet_file_that_is_none_is_named(tmp_path):
    write(tmp_path / "manifest.parquet", "image,id,split\n")
    with pytest.raises(DatasetError, match="no readable Parquet file"):
        vehicle_csv.read_annotations(tmp_path)


def test_identities_seen_in_training_are_a_warning(tmp_path, caplog):
    write(tmp_path / "manifest.csv", "image,id,split\na.jpg,1,train\nb.jpg,1,query\nc.jpg,1,gallery\n")
    with caplog.at_level(logging.WARNING):
        vehicle_csv.read_annotations(tmp_path)
    assert "the split train shares 1 identity with query or gallery (1)" in caplog.text


def test_folders_of_identities(tmp_path, caplog):
    for name in ("train/red van/1.jpg", "train/red van/2.JPG", "train/bus/1.png", "query/taxi/1.jpg"):
        write(tmp_path / name, encode_jpeg())
    write(tmp_path / "gallery/taxi/9.jpeg", encode_jpeg())
    write(tmp_path / "gallery/taxi/notes.txt", "hello")
    with caplog.at_level(logging.WARNING):
        splits = vehicle_csv.read_annotations(tmp_path)
    assert "1 file was left out" in caplog.text
    assert "notes.txt" in caplog.text
    # Identities are numbered in the sorted order of their names over all splits: bus, red van, taxi.
    assert splits == {
        "train": [
            Record("train/bus/1.png", 0),
            Record("train/red van/1.jpg", 1),
            Record("train/red van/2.JPG", 1),
        ],
        "query": [Record("query/taxi/1.jpg", 2)],
        "gallery": [Record("gallery/taxi/9.jpeg", 2)],
    }


def test_folders_that_are_numbers_keep_them(tmp_path):
    for name in ("query/0012/1.jpg", "gallery/12/1.jpg"):
        write(tmp_path / name, encode_jpeg())
    # 0012 and 12 are different folders, hence different vehicles: then names are not numbers.
    with pytest.raises(DatasetError, match="has no picture"):
        vehicle_csv.read_annotations(tmp_path)
    (tmp_path / "query/0012").rename(tmp_path / "query/12")
    splits = vehicle_csv.read_annotations(tmp_path)
    assert [record.id for records in splits.values() for record in records] == [12, 12]


@pytest.mark.parametrize(
    ("name", "problem"), [("train/loose.jpg", "holds no folder"), ("train/7/notes.txt", "holds no image")]
)
def test_folders_of_another_form_are_named(tmp_path, name, problem):
    write(tmp_path / name, "x")
    with pytest.raises(DatasetError, match=problem):
        vehicle_csv.read_annotations(tmp_path)
