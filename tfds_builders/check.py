"""Checks a release before it is built: `python -m tfds_builders.check --dataset=veri776 --manual_dir=DIR`."""

import argparse
import concurrent.futures
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders.annotations import count_of, count_splits, join_names
from tfds_builders.archives import default_extract_dir
from tfds_builders.build import PACKAGES, import_package
from tfds_builders.errors import DatasetError
from tfds_builders.images import find_image_sizes
from tfds_builders.progress import progress_bar
from tfds_builders.records import Record
from tfds_builders.release import SplitCounts, find_release
from tfds_builders.release_builder import ReleaseBuilder, find_count_differences, read_and_check
from tfds_builders.veri776 import compare_index_files

_SHOWN_DISAGREEMENTS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class SplitReport:
    """What was found of a split.

    Attributes:
        split: the split's name.
        images: the number of pictures its list names.
        ids: the number of identities among them.
        cameras: the number of cameras, 0 where none are known.
        official: the official numbers.
        missing: the pictures that are not there.
        unreadable: what is wrong with each picture that cannot be read. Without decoding only empty files are
            found.
    """

    split: str
    images: int
    ids: int
    cameras: int
    official: SplitCounts
    missing: tuple[str, ...]
    unreadable: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was found of a release.

    Attributes:
        title: the dataset's name.
        root: the release's folder.
        decoded: whether every picture was decoded.
        splits: one report for each split.
        notes: what a user should know but can live with.
        problems: what makes the release unusable.
    """

    title: str
    root: Path
    decoded: bool
    splits: tuple[SplitReport, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether the release can be built and follows its official protocol."""
        return not self.problems


def check(
    name: str,
    *,
    manual_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    decode: bool = False,
) -> Report:
    """Checks a release's lists, pictures and index files, showing progress.

    Args:
        name: the dataset's name, as in `tfds_builders.build.PACKAGES`.
        manual_dir: the release's folder or archive, or a folder around it; by default
            `<data_dir>/downloads/manual`.
        data_dir: TFDS's data directory, to which an archive is unpacked.
        decode: decode every picture, instead of only finding it.

    Returns:
        What was found.

    Raises:
        DatasetError: the release is missing, or its lists are malformed.
    """
    package = import_package(name)
    if not issubclass(package.Builder, ReleaseBuilder):
        raise DatasetError(f"The dataset {name} is generated; there is no release to check.")
    data_path = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    root = find_release(
        package.RELEASE, manual_dir or data_path / "downloads" / "manual", default_extract_dir(data_path)
    )
    records = package.read_annotations(root)
    counts = count_splits(records)
    splits = []
    with progress_bar(sum(map(len, records.values())), f"checking {name}") as progress:
        for split in records:
            folder = root / package.RELEASE.image_folders[split]
            missing, unreadable = _check_images(folder, records[split], decode, progress)
            images, ids, cameras = counts[split]
            official = package.RELEASE.counts.get(split, SplitCounts())
            splits.append(SplitReport(split, images, ids, cameras, official, missing, unreadable))
    notes = find_count_differences(package.RELEASE, records)
    problems = []
    for report in splits:
        if report.missing:
            problems.append(
                f"the split {report.split} lacks {count_of(len(report.missing), 'picture')}: "
                f"{join_names(report.missing)}."
            )
        if report.unreadable:
            listed = join_names(f"{name} {problem}" for name, problem in report.unreadable.items())
            number = count_of(len(report.unreadable), "unreadable picture")
            problems.append(f"the split {report.split} has {number}: {listed}.")
    if name == "veri776":
        more_notes, more_problems = _check_index_files(root, records)
        notes += more_notes
        problems += more_problems
    return Report(package.RELEASE.title, root, decode, tuple(splits), tuple(notes), tuple(problems))


def _check_images(
    folder: Path, records: Sequence[Record], decode: bool, progress: tqdm
) -> tuple[tuple[str, ...], dict[str, str]]:
    names = [record.name for record in records]
    sizes = find_image_sizes(folder, names)
    missing = tuple(name for name, size in zip(names, sizes, strict=True) if size is None)
    present = [name for name, size in zip(names, sizes, strict=True) if size is not None]
    unreadable = {name: "is an empty file" for name, size in zip(names, sizes, strict=True) if size == 0}
    if decode:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
            checked = executor.map(lambda name: read_and_check(folder / name)[1], present)
            for name, problem in zip(present, checked, strict=True):
                if problem is not None:
                    unreadable[name] = problem
                progress.update()
        progress.update(len(missing))
    else:
        progress.update(len(names))
    return missing, unreadable


def _check_index_files(root: Path, records: dict[str, list[Record]]) -> tuple[list[str], list[str]]:
    """Compares VeRi's index files with the camera rule: notes, problems."""
    comparison = compare_index_files(root, records["query"], records["gallery"])
    if comparison is None:
        return ["this copy has no index files; the camera rule defines the protocol."], []
    pairs = f"{comparison.good_pairs:,} good and {comparison.junk_pairs:,} junk pairs"
    if not comparison.disagreements:
        queries = count_of(comparison.queries, "query", "queries")
        return [f"the index files agree with the camera rule for all {queries} ({pairs})."], []
    shown = comparison.disagreements[:_SHOWN_DISAGREEMENTS]
    more = len(comparison.disagreements) - len(shown)
    return [], [
        f"the index files disagree with the camera rule ({pairs}) in "
        f"{count_of(len(comparison.disagreements), 'place')}: "
        + "; ".join(shown)
        + (f"; and {more:,} more." if more > 0 else ".")
    ]


def format_report(report: Report) -> str:
    """Writes a report as a table with notes, for a person to read."""
    counted = ("images", "ids", "cameras")
    rows = [["split", *(cell for noun in counted for cell in (noun, "official")), "missing", "unreadable"]]
    for split in report.splits:
        official = (split.official.images, split.official.ids, split.official.cameras)
        unreadable = f"{len(split.unreadable):,}" if report.decoded or split.unreadable else "not decoded"
        cells = [split.split]
        for found, expected in zip((split.images, split.ids, split.cameras), official, strict=True):
            cells += [f"{found:,}", "-" if expected is None else f"{expected:,}"]
        rows.append([*cells, f"{len(split.missing):,}", unreadable])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{report.title} in {report.root}"]
    for row in rows:
        aligned = [row[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(aligned))
    lines += [f"note: {note}" for note in report.notes]
    if not report.decoded:
        lines.append("note: the pictures were found but not decoded; --decode decodes every one.")
    lines += [f"problem: {problem}" for problem in report.problems]
    lines.append(f"usable: {'yes' if report.usable else 'no'}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 where the release is usable, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tfds_builders.check", description=__doc__)
    parser.add_argument("--dataset", required=True, help=", ".join(sorted(PACKAGES)))
    parser.add_argument("--manual_dir", help="the release's folder or archive, or a folder around it")
    parser.add_argument("--data_dir", help="where archives are unpacked; by default TFDS's own directory")
    parser.add_argument("--decode", action="store_true", help="decode every picture; takes longer")
    flags = parser.parse_args(argv)
    try:
        report = check(
            flags.dataset, manual_dir=flags.manual_dir, data_dir=flags.data_dir, decode=flags.decode
        )
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130  # as a shell reports an interrupt
    print(format_report(report))
    return 0 if report.usable else 1


if __name__ == "__main__":
    sys.exit(main())
