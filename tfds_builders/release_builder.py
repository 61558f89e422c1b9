"""The TFDS builder that all releases share: it finds, checks and writes them; subclasses read their lists."""

import abc
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader
from tqdm import tqdm

from tfds_builders.annotations import count_of, count_splits
from tfds_builders.errors import DatasetError
from tfds_builders.images import find_image_problem, require_images
from tfds_builders.progress import progress_bar
from tfds_builders.records import Record, fingerprint
from tfds_builders.release import Release, find_release

# TFDS keeps a shard in memory while it writes it, so a shard is far smaller than TFDS's usual 1 GiB.
_SHARD_BYTES = 128 << 20
_SHOWN_PROBLEMS = 5

Example = dict[str, Any]


class ReleaseBuilder(tfds.core.ShardBasedBuilder):
    """Builds a release of pictures and lists, keeping the lists' order and the pictures' bytes.

    Record n of a split is line n of its list. (`tfds.core.GeneratorBasedBuilder` would put more than 1 GB of
    ordered records through one file that it reads with TensorFlow; `ShardBasedBuilder` streams.)

    Args:
        manual_dir: the release's folder or archive, or a folder around it; by default TFDS's own
            `<data_dir>/downloads/manual`.
        skip_unreadable: leave out pictures that do not decode, with a warning, instead of refusing to build.
        file_format: the record format; only array_record works without TensorFlow.
        **kwargs: of `tfds.core.DatasetBuilder` (data_dir, config, version).
    """

    RELEASE: ClassVar[Release]
    DESCRIPTION: ClassVar[str]
    HOMEPAGE: ClassVar[str]
    LICENSE: ClassVar[str]
    CITATION: ClassVar[str]
    # Which of the optional attributes of `Record` the release has.
    ATTRIBUTES: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        *,
        manual_dir: str | os.PathLike[str] | None = None,
        skip_unreadable: bool = False,
        file_format: str = "array_record",
        **kwargs: Any,
    ):
        self._manual_dir = manual_dir
        self._skip_unreadable = skip_unreadable
        self._progress: tqdm | None = None  # shown from when the lists are read
        super().__init__(file_format=file_format, **kwargs)

    @abc.abstractmethod
    def read_annotations(self, root: Path) -> dict[str, list[Record]]:
        """Reads the lists of the release below `root`: for each split, its records in the list's order."""

    def _info(self) -> tfds.core.DatasetInfo:
        attributes = {
            name: np.int64 if name == "frame" else tfds.features.Text(doc=_ATTRIBUTE_DOCS[name])
            for name in self.ATTRIBUTES
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        encoding_format="jpeg", doc="the picture's file as it is in the release"
                    ),
                    "id": tfds.features.Scalar(np.int64, doc="the vehicle's identity"),
                    "camera": tfds.features.Scalar(np.int64, doc="the camera, -1 where there is none"),
                    "name": tfds.features.Text(doc="the picture's path below the split's image folder"),
                    **attributes,
                }
            ),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENSE,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def find_root(self, manual_dir: str | os.PathLike[str]) -> Path:
        """Finds the release below `manual_dir`, unpacking its archive into the data directory if needed."""
        extract_dir = Path(self.data_dir_root) / "downloads" / "extracted"
        return find_release(self.RELEASE, Path(manual_dir), extract_dir)

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[int, Example]]]]]:
        root = self.find_root(self._manual_dir or dl_manager.manual_dir)
        splits = self.read_annotations(root)
        for line in find_count_differences(self.RELEASE, splits):
            logging.warning("%s in %s: %s", self.RELEASE.title, root, line)
        sizes = {
            split: require_images(root / self.RELEASE.image_folders[split], [r.name for r in records])
            for split, records in splits.items()
        }
        self._statistics = {
            split: dict(zip(("images", "ids", "cameras"), counts, strict=True))
            for split, counts in count_splits(splits).items()
        }
        self._lists = fingerprint(splits)
        self._problems: dict[str, str] = {}
        self._progress = progress_bar(sum(map(len, splits.values())), f"building {self.name}")
        return {
            split: [
                functools.partial(self._generate_examples, root, split, records[start:stop], start)
                for start, stop in _split_into_shards(sizes[split])
            ]
            for split, records in splits.items()
        }

    def _generate_examples(
        self, root: Path, split: str, records: Sequence[Record], start: int
    ) -> Iterator[tuple[int, Example]]:
        """Reads and checks the pictures of one shard on all cores; yields (line index, example) in order."""
        folder = root / self.RELEASE.image_folders[split]
        assert self._progress is not None  # made with the shards
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
            checked = executor.map(lambda record: read_and_check(folder / record.name), records)
            for index, (record, (data, problem)) in enumerate(zip(records, checked, strict=True), start):
                self._progress.update()
                if problem is not None:
                    self._problems[f"{self.RELEASE.image_folders[split]}/{record.name}"] = problem
                    continue
                yield index, self._encode(record, data)

    def _encode(self, record: Record, data: bytes) -> Example:
        attributes = {name: getattr(record, name) for name in self.ATTRIBUTES}
        return {
            "image": data,
            "id": record.id,
            "camera": -1 if record.camera is None else record.camera,
            "name": record.name,
            **{
                name: value if value is not None else -1 if name == "frame" else ""
                for name, value in attributes.items()
            },
        }

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Writes the shards into TFDS's temporary folder, which is renamed only when this returns."""
        try:
            super()._download_and_prepare(dl_manager, download_config)
        finally:
            if self._progress is not None:
                self._progress.close()
        if self._problems:
            listed = "; ".join(
                f"{name} {problem}" for name, problem in list(self._problems.items())[:_SHOWN_PROBLEMS]
            )
            more = len(self._problems) - _SHOWN_PROBLEMS
            summary = (
                f"{count_of(len(self._problems), 'picture')} of {self.RELEASE.title} cannot be read: {listed}"
                + (f"; and {more:,} more" if more > 0 else "")
            )
            if not self._skip_unreadable:
                raise DatasetError(
                    f"{summary}. Get these pictures again, or build with --skip_unreadable to leave them "
                    "out; results are then not comparable with others'."
                )
            logging.warning("%s. They were left out.", summary)
            for split in self.info.splits.values():
                if split.num_examples == 0:
                    raise DatasetError(f"{summary}. No picture of the split {split.name} can be read.")
        self.info.metadata["statistics"] = self._statistics
        self.info.metadata["lists"] = self._lists
        self.info.metadata["left_out"] = dict(sorted(self._problems.items()))
        self._verify_shards()

    def _verify_shards(self) -> None:
        """Reads every shard's record count back; a write that failed silently must not pass for a dataset."""
        for split in self.info.splits.values():
            for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
                reader = ArrayRecordReader(os.fspath(path))
                found = reader.num_records()
                reader.close()
                if found != length:
                    raise DatasetError(
                        f"Writing {path} failed: it holds {found:,} records instead of {length:,}. "
                        "The disk is probably full."
                    )


_ATTRIBUTE_DOCS = {
    "color": "the vehicle's colour, empty where unknown",
    "type": "the vehicle's body type, empty where unknown",
    "model": "the vehicle's model, empty where unknown",
}


def read_and_check(path: Path) -> tuple[bytes, str | None]:
    """Reads a picture; returns its bytes and what is wrong with it, None when it decodes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})"
    return data, find_image_problem(data)


def _split_into_shards(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Cuts a split into shards of about equal size in bytes: (start, stop) line indices."""
    ends = np.cumsum(sizes)
    shards = max(1, round(int(ends[-1]) / _SHARD_BYTES))
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, shards) / shards).tolist()
    bounds = [0, *sorted(set(cuts) - {0}), len(sizes)]
    return list(itertools.pairwise(bounds))


def find_count_differences(release: Release, splits: Mapping[str, Sequence[Record]]) -> list[str]:
    """Compares the splits with the release's official table.

    Args:
        release: the release's description.
        splits: the records of each split.

    Returns:
        A sentence for each difference, naming both numbers; none where all agree.
    """
    found = count_splits(splits)
    differences = []
    for split, expected in release.counts.items():
        if split not in found:
            differences.append(f"this copy has no list for the split {split}, so the split is not built.")
            continue
        for noun, number, official in zip(
            ("images", "identities", "cameras"),
            found[split],
            (expected.images, expected.ids, expected.cameras),
            strict=True,
        ):
            if official is not None and number != official:
                differences.append(
                    f"the split {split} has {number:,} {noun}, the official release {official:,}."
                )
    return differences
