"""The strict reading of lists."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_releases import write

from tfds_builders import annotations
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record, fingerprint

ROWS = [("a.jpg", "0", "1"), ("b/c.jpg", "12", "007"), ("d.jpg", "999999999999999999", "3")]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("trailing", ["", " ", " \t "])
@pytest.mark.parametrize("tail", ["", "ending", "blank lines"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_endings_and_trailing_space_change_nothing(tmp_path, ending, trailing, tail, mark):
    text = ending.join(" ".join(row) + trailing for row in ROWS)
    text += {"": "", "ending": ending, "blank lines": ending + " " + ending + ending}[tail]
    path = write(tmp_path / "list.txt", mark + text.encode())
    lines = annotations.read_lines(path, columns=3, form="x")
    assert [line.columns for line in lines] == ROWS
    assert [line.number for line in lines] == [1, 2, 3]


@given(st.integers(0, 10**18 - 1))
def test_parse_integer_reads_what_is_written(value):
    assert annotations.parse_integer(str(value)) == value


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", "1.0", " 1", "0x1", "١", "²", "1" * 19, "one"])
def test_parse_integer_takes_only_plain_digits(text):
    assert annotations.parse_integer(text) is None


@pytest.mark.parametrize("name", ["a.jpg", "a b.jpg", "a/b/c.jpg", "..a.jpg", "a..b", "été.jpg", "车.jpg"])
def test_ordinary_names_are_taken(name):
    assert annotations.find_name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "empty"),
        ("../x.jpg", "leads out"),
        ("a/../../x.jpg", "leads out"),
        ("..", "leads out"),
        ("/etc/passwd", "absolute"),
        ("C:/x.jpg", "absolute"),
        ("a\\b.jpg", "backslash"),
        ("a\0b.jpg", "control character"),
        ("a\u202eb.jpg", "control character"),
        ("a//b.jpg", "empty part"),
        ("./a.jpg", "'.'"),
        ("a/" * 600 + "x.jpg", "longer"),
        ("x" * 300, "longer"),
    ],
)
def test_names_that_leave_the_folder_or_cannot_exist_are_refused(name, problem):
    assert problem in annotations.find_name_problem(name)


def test_an_error_names_file_line_text_and_form(tmp_path):
    path = write(tmp_path / "list.txt", "a.jpg 1 2\nb.jpg 1\n")
    with pytest.raises(DatasetError) as error:
        annotations.read_lines(path, columns=3, form="name, identity and camera")
    for part in (str(path), "line 2", "'b.jpg 1'", "name, identity and camera", "2 columns instead of 3"):
        assert part in str(error.value)


def test_a_long_line_is_shortened_in_the_message(tmp_path):
    path = write(tmp_path / "list.txt", "x" * 10_000 + " 1 2 3\n")
    with pytest.raises(DatasetError) as error:
        annotations.read_lines(path, columns=3, form="x")
    assert len(str(error.value)) < 400 + len(str(path))


def test_absent_identities_are_counted_and_an_example_is_named(tmp_path):
    query = [Record("q1.jpg", 1), Record("q2.jpg", 2), Record("q3.jpg", 3)]
    with pytest.raises(DatasetError, match=re.escape("2 query identities (1, 3) have no picture")):
        annotations.refuse_absent_identities(query, [Record("g.jpg", 2)], tmp_path / "list.txt")
    annotations.refuse_absent_identities(query[1:2], [Record("g.jpg", 2)], tmp_path / "list.txt")


def test_counts_of_splits():
    records = [Record("a", 1, 5), Record("b", 1, 6), Record("c", 2)]
    assert annotations.count_splits({"train": records}) == {"train": (3, 2, 2)}


def test_the_fingerprint_tells_order_split_and_every_attribute():
    base = {"train": [Record("a", 1, 2), Record("b", 3)]}
    others = [
        {"train": [Record("b", 3), Record("a", 1, 2)]},
        {"query": [Record("a", 1, 2), Record("b", 3)]},
        {"train": [Record("a", 1, 2), Record("b", 4)]},
        {"train": [Record("a", 1, 2), Record("b", 3, 0)]},
        {"train": [Record("a", 1, 2), Record("b", 3, color="red")]},
        {"train": [Record("a", 1, 2)]},
    ]
    prints = {fingerprint(splits) for splits in [base, *others]}
    assert len(prints) == 1 + len(others)
    assert fingerprint({"train": list(base["train"])}) == fingerprint(base)
