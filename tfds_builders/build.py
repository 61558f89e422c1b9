"""Builds a dataset on first use: `python -m tfds_builders.build --dataset=vric --manual_dir=DIR`."""

import argparse
import contextlib
import errno
import fcntl
import importlib
import io
import os
import shutil
import sys
import types
from collections.abc import Iterator, Sequence
from logging import LogRecord
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging

from tfds_builders.annotations import count_of, join_names
from tfds_builders.errors import DatasetError
from tfds_builders.records import fingerprint
from tfds_builders.release import find_unpacked_release
from tfds_builders.release_builder import ReleaseBuilder

# The package of each dataset; it holds the class `Builder`.
PACKAGES = {
    "synthetic_vehicles": "tfds_builders.synthetic_vehicles",
    "vehicle_csv": "tfds_builders.vehicle_csv",
    "vehicleid": "tfds_builders.vehicleid",
    "veri776": "tfds_builders.veri776",
    "veri_wild": "tfds_builders.veri_wild",
    "vric": "tfds_builders.vric",
}

# How TFDS names the folder it writes into before it renames it.
_INCOMPLETE_PATTERN = "incomplete.*"


def build(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    config: str | None = None,
    skip_unreadable: bool = False,
) -> tfds.core.DatasetBuilder:
    """Builds a dataset unless it is built already, showing progress.

    A build that is stopped at any moment leaves nothing that passes for a dataset; running it again starts
    afresh. Two processes that build the same dataset take turns.

    Args:
        name: a name of `PACKAGES`, optionally with a TFDS config, as in "synthetic_vehicles/heavy". For
            vehicle_csv the config is a name of one's own, one for each of one's datasets.
        data_dir: TFDS's data directory; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        manual_dir: the release's folder or archive, or a folder around it; by default
            `<data_dir>/downloads/manual`. Datasets that are generated need none.
        config: the TFDS config, where `name` does not hold it.
        skip_unreadable: leave out pictures that do not decode, with a warning, instead of refusing to build.

    Returns:
        The builder of the prepared dataset: `builder.as_data_source(split)` reads it, `builder.info`
        describes it.

    Raises:
        DatasetError: the name is unknown, the release is missing or malformed, the data directory cannot be
            written, or the dataset was built from other lists than those now in `manual_dir`.
    """
    name, _, name_config = name.partition("/")
    builder_class = import_package(name).Builder
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser().absolute()
    arguments = {}
    if issubclass(builder_class, ReleaseBuilder):
        # Set here rather than by TFDS, whose own message for a missing folder is an AssertionError.
        manual = Path(manual_dir or root / "downloads" / "manual").expanduser().absolute()
        arguments = {"manual_dir": manual, "skip_unreadable": skip_unreadable}

    def open_builder() -> tfds.core.DatasetBuilder:
        try:
            with _own_configs_are_expected():
                return builder_class(data_dir=root, config=name_config or config or None, **arguments)
        except ValueError as error:  # how TFDS reports an unknown config
            raise DatasetError(f"The dataset {name!r} cannot be opened in {root}: {error}") from None

    builder = open_builder()
    folder = Path(builder.data_dir)
    if _is_built(folder):
        if manual_dir is not None:
            _refuse_other_lists(builder, manual)
    else:
        try:
            with _lock(root, name):
                if _is_built(folder):  # another process has built it meanwhile; ours has not seen it
                    builder = open_builder()
                else:
                    _remove_incomplete(folder.parent)
                    # TFDS announces a download of unknown size on standard output.
                    with contextlib.redirect_stdout(io.StringIO()):
                        builder.download_and_prepare()
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and _find_lack_of_room(error) is None:
                raise
            raise _explain_failed_write(error, name, root) from error
    _check_complete(builder)
    left_out = (builder.info.metadata or {}).get("left_out")
    if left_out:
        logging.warning(
            "%s was built without %s that could not be read: %s.",
            name,
            count_of(len(left_out), "picture"),
            join_names(left_out),
        )
    return builder


@contextlib.contextmanager
def _own_configs_are_expected() -> Iterator[None]:
    """Keeps from the user what TFDS warns of: a config that it does not know, which is a name of the user's own."""

    def is_of_interest(record: LogRecord) -> bool:
        return not record.getMessage().startswith("Using custom data configuration")

    logger = logging.get_absl_logger()
    logger.addFilter(is_of_interest)
    try:
        yield
    finally:
        logger.removeFilter(is_of_interest)


def _is_built(folder: Path) -> bool:
    """Whether TFDS finished a build in this folder; it renames the folder only when all is written."""
    if folder.exists() and not (folder / "dataset_info.json").exists():
        raise DatasetError(
            f"The folder {folder} is in the way: it has no dataset_info.json, so it is no complete "
            "dataset. Delete the folder and run again."
        )
    return folder.exists()


def _refuse_other_lists(builder: ReleaseBuilder, manual_dir: Path) -> None:
    """Raises a `DatasetError` where the release in `manual_dir` has other lists than the built dataset.

    A release that was removed or is packed is not compared: it need not be kept once the dataset is built.
    """
    built_from = (builder.info.metadata or {}).get("lists")
    root = find_unpacked_release(builder.RELEASE, manual_dir)
    if built_from and root and built_from != fingerprint(builder.read_annotations(root)):
        raise DatasetError(
            f"The dataset in {builder.data_dir} was built from other lists than those now in {root}. "
            "To build it from these, delete that folder or choose another data_dir; to use it as it is, "
            "leave out manual_dir."
        )


def _check_complete(builder: tfds.core.DatasetBuilder) -> None:
    """Raises a `DatasetError` where a built dataset has lost a file, for example in an unfinished copy."""
    for split in builder.info.splits.values():
        for path in split.filepaths:
            if not path.exists():
                raise DatasetError(
                    f"The dataset in {builder.data_dir} lacks its file {path.name}. Delete that folder and "
                    "run again to build it anew."
                )


def import_package(name: str) -> types.ModuleType:
    """Imports a dataset's package: it has `Builder` and, for a release, `RELEASE` and `read_annotations`."""
    if name not in PACKAGES:
        raise DatasetError(f"There is no dataset {name!r}; there are {', '.join(sorted(PACKAGES))}.")
    return importlib.import_module(PACKAGES[name])


@contextlib.contextmanager
def _lock(root: Path, name: str) -> Iterator[None]:
    """Lets one process at a time build a dataset; the system frees the lock when a process dies."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_incomplete(folder: Path) -> None:
    """Removes what a killed build left; the caller holds the lock, so no build is under way."""
    for path in folder.glob(_INCOMPLETE_PATTERN):
        shutil.rmtree(path)


def _find_lack_of_room(error: OSError | RuntimeError) -> int | None:
    """The error number where a write failed for lack of room; array_record only tells it in its message."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno if error.errno in codes else None
    return next((code for code in codes if os.strerror(code) in str(error)), None)


def _explain_failed_write(error: OSError | RuntimeError, name: str, root: Path) -> DatasetError:
    if _find_lack_of_room(error) is not None:
        free = shutil.disk_usage(root).free
        return DatasetError(
            f"There is no room to build {name} in {root}, where {free:,} bytes are free. A dataset takes "
            "about as much room as its release. Nothing was kept; free some room or choose another data_dir."
        )
    return DatasetError(
        f"Building {name} in {root} failed: {error}. Nothing was kept. Check that data_dir is a folder you "
        "may write to, or choose another one."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_builders.build", description=__doc__)
    parser.add_argument("--dataset", required=True, help=", ".join(sorted(PACKAGES)) + "; or name/config")
    parser.add_argument("--manual_dir", help="the release's folder or archive, or a folder around it")
    parser.add_argument("--data_dir", help="where datasets are built; by default TFDS's own directory")
    parser.add_argument(
        "--skip_unreadable", action="store_true", help="leave out pictures that do not decode"
    )
    flags = parser.parse_args(argv)
    try:
        builder = build(
            flags.dataset,
            data_dir=flags.data_dir,
            manual_dir=flags.manual_dir,
            skip_unreadable=flags.skip_unreadable,
        )
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing was kept; the same command starts afresh.", file=sys.stderr)
        return 130  # as a shell reports an interrupt
    print(f"{builder.info.full_name} is in {builder.data_dir}:")
    for split in builder.info.splits.values():
        print(f"  {split.name:<12} {split.num_examples:>9,} images  {split.num_bytes / 1e6:>10,.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
