"""VeRi-776's index files against the camera rule."""

import dataclasses
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_releases import VERI_GOOD, VERI_JUNK, VERI_QUERY, write, write_veri776

from tfds_builders import build
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record
from tfds_builders.veri776 import compare_index_files, read_annotations
from tfds_builders.veri776.index_files import apply_camera_rule, read_index_file


@pytest.fixture
def release(tmp_path):
    root = write_veri776(tmp_path)
    return root, read_annotations(root)


def test_files_written_by_hand_agree(release):
    root, splits = release
    comparison = compare_index_files(root, splits["query"], splits["gallery"])
    assert comparison.disagreements == ()
    assert (comparison.queries, comparison.good_pairs, comparison.junk_pairs) == (3, 6, 4)


def test_indices_are_read_from_one_and_given_from_zero(release):
    root, splits = release
    good = read_index_file(root / "gt_index.txt", 3, splits["gallery"])
    assert good == [tuple(int(entry) - 1 for entry in line.split()) for line in VERI_GOOD]


@pytest.mark.parametrize(
    ("file_name", "line", "text", "expected"),
    [
        (
            "gt_index.txt",
            2,
            "1 2 ",
            f"query {VERI_QUERY[1]}: gt_index.txt lacks 0002_c004_00000003_0.jpg (line 4)",
        ),
        (
            "gt_index.txt",
            1,
            "3 4 5 ",
            f"query {VERI_QUERY[0]}: gt_index.txt lists 0776_c003_00000004_0.jpg (line 5)",
        ),
        (
            "jk_index.txt",
            3,
            "",
            f"query {VERI_QUERY[2]}: jk_index.txt lacks 0776_c005_00000006_0.jpg (line 6)",
        ),
        ("gt_index.txt", 1, "3 3 4 ", f"query {VERI_QUERY[0]}: gt_index.txt lists a picture twice"),
    ],
)
def test_a_planted_disagreement_is_found_and_named(release, file_name, line, text, expected):
    root, splits = release
    lines = {"gt_index.txt": VERI_GOOD, "jk_index.txt": VERI_JUNK}[file_name].copy()
    lines[line - 1] = text
    write(root / file_name, "".join(f"{entry}\r\n" for entry in lines))
    (found,) = compare_index_files(root, splits["query"], splits["gallery"]).disagreements
    assert found.startswith(expected)


def test_a_disagreement_is_a_warning_when_the_dataset_is_built(release, tmp_path, caplog):
    root, _ = release
    write(root / "gt_index.txt", "3 \r\n1 2 4 \r\n5 \r\n")
    with caplog.at_level(logging.WARNING):
        build.build("veri776", data_dir=tmp_path / "data", manual_dir=root)
    assert f"in 1 place: query {VERI_QUERY[0]}: gt_index.txt lacks" in caplog.text


def test_the_other_names_of_the_files_are_known(release):
    root, splits = release
    (root / "gt_index.txt").rename(root / "gt_image.txt")
    (root / "jk_index.txt").unlink()
    assert compare_index_files(root, splits["query"], splits["gallery"]).disagreements == ()
    write(root / "gt_image.txt", "1\n1\n1\n")
    assert len(compare_index_files(root, splits["query"], splits["gallery"]).disagreements) == 3


def test_entries_may_be_names(release):
    root, splits = release
    names = [record.name for record in splits["gallery"]]
    lines = [" ".join(names[int(entry) - 1] for entry in line.split()) for line in VERI_GOOD]
    write(root / "gt_index.txt", "\n".join(lines))
    assert compare_index_files(root, splits["query"], splits["gallery"]).disagreements == ()


def test_a_copy_without_index_files_has_nothing_to_compare(release):
    root, splits = release
    (root / "gt_index.txt").unlink()
    (root / "jk_index.txt").unlink()
    assert compare_index_files(root, splits["query"], splits["gallery"]) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\n2\n", "has 2 lines, but there are 3 queries"),
        ("1\n2\n3\n4\n", "has 4 lines"),
        ("1\n0\n3\n", r"line 2: '0' is no line of the gallery list; expected are numbers from 1 to 6"),
        ("1\n7\n3\n", "line 2: '7'"),
        ("1\n2 x\n3\n", "line 2: 'x'"),
        ("1\n-1\n3\n", "line 2: '-1'"),
    ],
)
def test_malformed_index_files_are_refused(release, text, problem):
    root, splits = release
    write(root / "gt_index.txt", text)
    with pytest.raises(DatasetError, match=problem):
        compare_index_files(root, splits["query"], splits["gallery"])


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12)


@given(pairs, pairs)
def test_the_camera_rule_is_what_a_comparison_of_all_pairs_gives(query, gallery):
    queries = [Record(f"q{index}", *pair) for index, pair in enumerate(query)]
    records = [Record(f"g{index}", *pair) for index, pair in enumerate(gallery)]
    good, junk = apply_camera_rule(queries, records)
    query_ids, query_cameras = np.array(query, int).reshape(-1, 2).T[..., None]
    ids, cameras = np.array(gallery, int).reshape(-1, 2).T
    same = query_ids == ids
    assert [list(row) for row in good] == [
        np.flatnonzero(row).tolist() for row in same & (query_cameras != cameras)
    ]
    assert [list(row) for row in junk] == [
        np.flatnonzero(row).tolist() for row in same & (query_cameras == cameras)
    ]


def test_a_camera_label_that_is_wrong_shows_as_disagreement(release):
    root, splits = release
    gallery = list(splits["gallery"])
    gallery[3] = dataclasses.replace(gallery[3], camera=1)
    disagreements = compare_index_files(root, splits["query"], gallery).disagreements
    assert len(disagreements) == 2  # query 0 sees it as junk now, in both files
    assert all(text.startswith(f"query {VERI_QUERY[0]}") for text in disagreements)
