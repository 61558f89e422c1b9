"""Strict reading of a release's lists: a surprise is a `DatasetError` with file, line and expected form."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tfds_builders.errors import DatasetError
from tfds_builders.records import Record

_DIGITS = re.compile(r"[0-9]{1,18}")  # 18 digits always fit in an int64
# Ordinary names, which are nearly all, are recognised at once.
_ORDINARY_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z_.-]*(?:/[0-9A-Za-z_-][0-9A-Za-z_.-]*)*")
_MAX_PATH_BYTES, _MAX_NAME_BYTES = 1024, 255
_SHOWN_CHARACTERS = 80
_SHOWN_NAMES = 5


def read_text(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    """Reads a text file in the first of some encodings that fits.

    Args:
        path: the file.
        encodings: Python names of encodings, tried in order. "utf-8-sig" is UTF-8 with or without a byte
            order mark.

    Returns:
        The text, with every line ending turned into a line feed.

    Raises:
        DatasetError: the file is missing, cannot be read, or is in none of the encodings.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"The file {path} is missing.") from None
    except OSError as error:
        raise DatasetError(f"The file {path} cannot be read: {error.strerror}.") from None
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return text.replace("\r\n", "\n").replace("\r", "\n")
    names = " or ".join(encoding.removesuffix("-sig") for encoding in encodings)
    raise DatasetError(
        f"The file {path} is not {names} text. It may be a different file under this name, or a copy that a "
        "program has converted; take it from the release again."
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of a list, split into its columns.

    Attributes:
        path: the list.
        number: the line's number, from 1.
        text: the line without its line ending.
        columns: the line split at white space.
        form: the form a line should have, with an example, for the messages.
    """

    path: Path
    number: int
    text: str
    columns: tuple[str, ...]
    form: str

    def error(self, problem: str) -> DatasetError:
        """The error to raise for this line; `problem` is a clause such as "the id is not an integer"."""
        shown = self.text[:_SHOWN_CHARACTERS] + ("..." if len(self.text) > _SHOWN_CHARACTERS else "")
        return DatasetError(
            f"{self.path}, line {self.number}: {problem}. The line is {shown!r}; expected is {self.form}."
        )

    def integer(self, column: int, meaning: str) -> int:
        """The column's value as an integer of 0 or more; `meaning` ("id") names it in the message."""
        value = parse_integer(self.columns[column])
        if value is None:
            raise self.error(f"the {meaning} {self.columns[column]!r} is not an integer of 0 or more")
        return value

    def image_name(self, column: int = 0) -> str:
        """The column's value as the name of a picture that stays below its folder."""
        problem = find_name_problem(self.columns[column])
        if problem is not None:
            raise self.error(f"the name {self.columns[column]!r} {problem}")
        return self.columns[column]


def parse_integer(text: str) -> int | None:
    """The integer of 0 or more that `text` spells in ASCII digits, or None.

    `int` alone would also take "1_000", "+5", " 7" and digits of other scripts.
    """
    return int(text) if _DIGITS.fullmatch(text) else None


def find_name_problem(name: str) -> str | None:
    """Says why `name` is no name for a picture below its folder, as a clause ("leads out ..."), or None."""
    if len(name) <= _MAX_NAME_BYTES and _ORDINARY_NAME.fullmatch(name):
        return None
    if not name:
        return "is empty"
    if not name.isprintable() or "\\" in name:
        return "holds a control character or a backslash, which no picture's name has"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "is absolute, but must be relative to the image folder"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the image folder"
    if "" in parts or "." in parts:
        return "has an empty part or a '.' between its slashes"
    if len(name.encode()) > _MAX_PATH_BYTES or max(len(part.encode()) for part in parts) > _MAX_NAME_BYTES:
        return "is longer than a file name can be"
    return None


def read_lines(
    path: Path, columns: int | None, form: str, encodings: Sequence[str] = ("utf-8-sig",)
) -> list[Line]:
    """Reads a list of white-space-separated columns.

    Line endings of any kind, trailing spaces, blank lines at the end and a missing final line ending are
    tolerated, because real releases have them.

    Args:
        path: the list.
        columns: the number of columns each line must have; None accepts any number from 1.
        form: the form a line should have, with an example, for the messages.
        encodings: the encodings the list may be in, tried in order.

    Returns:
        The lines, in order.

    Raises:
        DatasetError: the file is missing, holds no line, is in another encoding, or a line is blank or has
            another number of columns.
    """
    lines = read_text(path, encodings).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DatasetError(f"The file {path} is empty; every line should be {form}.")
    result = []
    for number, text in enumerate(lines, start=1):
        line = Line(path, number, text, tuple(text.split()), form)
        if not line.columns:
            raise line.error("the line is blank")
        if columns is not None and len(line.columns) != columns:
            raise line.error(f"there are {count_of(len(line.columns), 'column')} instead of {columns}")
        result.append(line)
    return result


def refuse_duplicates(lines: Iterable[Line], names: Iterable[str]) -> None:
    """Raises a `DatasetError` where two lines of a list name the same picture.

    Args:
        lines: the list's lines.
        names: the name on each of them.
    """
    first: dict[str, int] = {}
    for line, name in zip(lines, names, strict=True):
        if name in first:
            raise line.error(f"the name {name!r} is already on line {first[name]}")
        first[name] = line.number


def refuse_absent_identities(query: Sequence[Record], gallery: Sequence[Record], gallery_path: Path) -> None:
    """Raises a `DatasetError` where a query's identity has no picture in the gallery.

    Args:
        query: the query's records.
        gallery: the gallery's records.
        gallery_path: the gallery's list, for the message.
    """
    known = {record.id for record in gallery}
    absent = collections.Counter(record.id for record in query if record.id not in known)
    if absent:
        example = next(record for record in query if record.id in absent)
        raise DatasetError(
            f"{count_of(len(absent), 'query identity', 'query identities')} "
            f"({join_names(str(id_) for id_ in absent)}) "
            f"{'has' if len(absent) == 1 else 'have'} no picture in the gallery list {gallery_path}, for "
            f"example the identity {example.id} of query {example.name}. Every query needs at least one "
            "gallery picture of the same vehicle; the two lists are probably from different releases."
        )


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: "1 column", "2 columns", "1,678 images"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def join_names(names: Iterable[str]) -> str:
    """The first few names, separated by commas, with a note of how many more there are."""
    names = list(names)
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def count_splits(splits: Mapping[str, Sequence[Record]]) -> dict[str, tuple[int, int, int]]:
    """Counts the images, identities and cameras of each split; cameras are 0 where none are known."""
    return {
        name: (
            len(records),
            len({record.id for record in records}),
            len({record.camera for record in records} - {None}),
        )
        for name, records in splits.items()
    }
