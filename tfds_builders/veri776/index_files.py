"""VeRi-776's own ground-truth files, compared with the rule "same vehicle and same camera do not count"."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tfds_builders.annotations import count_of, parse_integer, read_text
from tfds_builders.errors import DatasetError
from tfds_builders.records import Record

# Both names are met; the content is the same.
_GOOD_FILES = ("gt_index.txt", "gt_image.txt")
_JUNK_FILES = ("jk_index.txt", "jk_image.txt")


@dataclasses.dataclass(frozen=True, slots=True)
class IndexComparison:
    """What a comparison found.

    Attributes:
        queries: the number of queries compared.
        good_pairs: the number of (query, gallery) pairs that count as hits by the camera rule.
        junk_pairs: the number of pairs that the camera rule leaves out.
        disagreements: a sentence for each query and file that differ, in the queries' order.
    """

    queries: int
    good_pairs: int
    junk_pairs: int
    disagreements: tuple[str, ...]


def read_index_file(path: Path, queries: int, gallery: Sequence[Record]) -> list[tuple[int, ...]]:
    """Reads one index file.

    Args:
        path: gt_index.txt or jk_index.txt: line i holds the 1-based gallery lines of query i. Some copies
            hold picture names instead.
        queries: the number of queries, which is the number of lines.
        gallery: the gallery's records.

    Returns:
        For each query, the 0-based gallery indices on its line.

    Raises:
        DatasetError: the file is missing, or has another number of lines or an entry that is no gallery line.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()  # the end of the last line, not a line
    if len(lines) != queries:
        raise DatasetError(
            f"The file {path} has {count_of(len(lines), 'line')}, but there are "
            f"{count_of(queries, 'query', 'queries')}; line i should hold the matches of query i."
        )
    by_name = {record.name: index for index, record in enumerate(gallery)}
    result = []
    for number, line in enumerate(lines, start=1):
        indices = []
        for entry in line.split():
            one_based = parse_integer(entry)
            index = by_name.get(entry) if one_based is None else one_based - 1
            if index is None or not 0 <= index < len(gallery):
                raise DatasetError(
                    f"{path}, line {number}: {entry[:80]!r} is no line of the gallery list; expected are "
                    f"numbers from 1 to {len(gallery)}, separated by spaces."
                )
            indices.append(index)
        result.append(tuple(indices))
    return result


def apply_camera_rule(
    query: Sequence[Record], gallery: Sequence[Record]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Finds each query's matches by the rule that every program uses instead of the index files.

    Args:
        query: the query's records, with cameras.
        gallery: the gallery's records, with cameras.

    Returns:
        For each query, in ascending order, the gallery indices of the same vehicle in another camera (good),
        and those of the same vehicle in the same camera (junk).
    """
    by_id = collections.defaultdict(list)
    for index, record in enumerate(gallery):
        by_id[record.id].append(index)
    good, junk = [], []
    for record in query:
        same = by_id[record.id]
        good.append(tuple(index for index in same if gallery[index].camera != record.camera))
        junk.append(tuple(index for index in same if gallery[index].camera == record.camera))
    return good, junk


def compare_index_files(
    root: str | Path, query: Sequence[Record], gallery: Sequence[Record]
) -> IndexComparison | None:
    """Compares a release's index files with the camera rule, pair by pair.

    Args:
        root: the release's folder.
        query: the query's records.
        gallery: the gallery's records.

    Returns:
        What was found, or None where the copy has no index files.

    Raises:
        DatasetError: an index file is malformed.
    """
    root = Path(root)
    rules = apply_camera_rule(query, gallery)
    disagreements: dict[int, list[str]] = collections.defaultdict(list)
    compared = False
    for names, rule in zip((_GOOD_FILES, _JUNK_FILES), rules, strict=True):
        for path in (root / name for name in names):
            if not path.exists():
                continue
            compared = True
            listed = read_index_file(path, len(query), gallery)
            for position, (by_file, by_rule) in enumerate(zip(listed, rule, strict=True)):
                text = _describe_difference(path.name, query[position], gallery, by_file, by_rule)
                if text is not None:
                    disagreements[position].append(text)
    if not compared:
        return None
    return IndexComparison(
        queries=len(query),
        good_pairs=sum(map(len, rules[0])),
        junk_pairs=sum(map(len, rules[1])),
        disagreements=tuple(text for position in sorted(disagreements) for text in disagreements[position]),
    )


def _describe_difference(
    file_name: str,
    query: Record,
    gallery: Sequence[Record],
    by_file: Sequence[int],
    by_rule: Sequence[int],
) -> str | None:
    parts = []
    for indices, verb in (
        (sorted(set(by_file) - set(by_rule)), "lists"),
        (sorted(set(by_rule) - set(by_file)), "lacks"),
    ):
        if indices:
            shown = ", ".join(f"{gallery[index].name} (line {index + 1})" for index in indices[:3])
            more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
            parts.append(f"{verb} {shown}{more}")
    if len(by_file) != len(set(by_file)):
        parts.append("lists a picture twice")
    return f"query {query.name}: {file_name} {' and '.join(parts)}, unlike the camera rule" if parts else None
