"""What a release looks like on disk, and how it is found there."""

import dataclasses
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tfds_builders import archives
from tfds_builders.annotations import join_names
from tfds_builders.errors import DatasetError

_SEARCH_DEPTH = 2
_MAX_FOLDERS_SEARCHED = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class SplitCounts:
    """The official size of a split; None where the release's authors give no number."""

    images: int | None = None
    ids: int | None = None
    cameras: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """The official on-disk form of a dataset.

    Attributes:
        title: the dataset's name as its authors write it.
        how_to_get: whom to ask for the dataset, as full sentences.
        tree: the files below the release's own folder, one a line.
        markers: groups of paths; a folder that holds all paths of any group is the release's root.
        image_folders: for each split, its image folder below the root.
        counts: the official size of each split.
    """

    title: str
    how_to_get: str
    tree: str
    markers: tuple[tuple[str, ...], ...]
    image_folders: Mapping[str, str]
    counts: Mapping[str, SplitCounts]

    def instructions(self, manual_dir: str | Path = "<data_dir>/downloads/manual") -> str:
        """What to request, where to put it and what it must look like, for a person to read."""
        return (
            f"{self.how_to_get} Put the archive as downloaded, or the folder unpacked from it, into "
            f"{manual_dir} (or name another folder with manual_dir). The tree must look like this, with or "
            f"without a folder around it:\n{textwrap.indent(textwrap.dedent(self.tree).strip(), '  ')}"
        )


def find_release(release: Release, manual_dir: str | os.PathLike[str], extract_dir: Path) -> Path:
    """Finds a release's root folder, unpacking its archive where only that is there.

    Args:
        release: what to look for.
        manual_dir: the release's folder, a folder around it, a folder its archive is in, or the archive.
        extract_dir: where an archive is unpacked to.

    Returns:
        The release's root: the folder whose tree is `release.tree`.

    Raises:
        DatasetError: nothing was found, or more than one copy.
    """
    path = Path(manual_dir).expanduser()
    if archives.is_archive(path):
        return _find_in_archive(release, path, extract_dir)
    if not path.is_dir():
        state = "is not a folder or an archive" if path.exists() else "does not exist"
        raise DatasetError(f"{release.title} was not found: {path} {state}. {release.instructions(path)}")
    root = find_unpacked_release(release, path)
    if root is not None:
        return root
    try:
        candidates = sorted(entry for entry in path.iterdir() if archives.is_archive(entry))
    except OSError as error:
        raise DatasetError(
            f"{release.title} was not found: {path} cannot be read: {error.strerror}."
        ) from None
    # One that is named after the dataset comes first, because listing a large archive takes a while.
    candidates.sort(key=lambda entry: _plain(release.title) not in _plain(entry.name))
    for candidate in candidates:
        if _names_release(release, archives.list_members(candidate)):
            return _find_in_archive(release, candidate, extract_dir)
    there = sorted(entry.name for entry in path.iterdir())
    holds = f"holds {join_names(there)}" if there else "is empty"
    raise DatasetError(
        f"{release.title} was not found in {path}, which {holds}. {release.instructions(path)}"
    )


def find_unpacked_release(release: Release, manual_dir: str | Path) -> Path | None:
    """Finds a release's root folder as `find_release` does; None where there is an archive or nothing."""
    path = Path(manual_dir).expanduser()
    return _find_root(release, path) if path.is_dir() else None


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _find_in_archive(release: Release, path: Path, extract_dir: Path) -> Path:
    folder = archives.unpack(path, extract_dir)
    root = _find_root(release, folder)
    if root is None:
        there = join_names(sorted(entry.name for entry in folder.iterdir()))
        raise DatasetError(
            f"{release.title} was not found in the archive {path}, which holds {there}. "
            f"{release.instructions(path.parent)}"
        )
    return root


def _find_root(release: Release, folder: Path) -> Path | None:
    """The one folder at the smallest depth that holds a group of markers, or None."""
    level = [folder]
    searched = 0
    for _ in range(_SEARCH_DEPTH + 1):
        found = [
            path
            for path in level
            if any(all((path / marker).exists() for marker in group) for group in release.markers)
        ]
        if len(found) > 1:
            raise DatasetError(
                f"There is more than one copy of {release.title} in {folder}: "
                f"{join_names(str(path) for path in found)}. Name the one to use with manual_dir."
            )
        if found:
            return found[0]
        children: list[Path] = []
        for path in level:
            searched += 1
            if searched > _MAX_FOLDERS_SEARCHED:
                return None
            try:
                children.extend(sorted(child for child in path.iterdir() if child.is_dir()))
            except PermissionError:
                continue
        level = children
    return None


def _names_release(release: Release, members: list[str]) -> bool:
    """Whether an archive's entries hold a group of markers, at most `_SEARCH_DEPTH` folders down."""
    paths: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member)
        paths.add(path)
        paths.update(path.parents)
    for group in release.markers:
        for path in paths:
            depth = len(path.parts) - len(PurePosixPath(group[0]).parts)
            if not 0 <= depth <= _SEARCH_DEPTH or path.parts[depth:] != PurePosixPath(group[0]).parts:
                continue
            root = PurePosixPath(*path.parts[:depth])
            if all(root / marker in paths for marker in group):
                return True
    return False
