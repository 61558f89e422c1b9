"""Writes a planned release to disk: in parallel, resumable, the same bytes whatever the worker count."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

from tfds_builders.errors import DatasetError
from tfds_builders.progress import progress_bar
from tfds_builders.synthetic_vehicles.pictures import Picture, take_all

_MARKER = "UNFINISHED.json"
_PARTIAL = ".partial"
_CHUNK = 32


@dataclasses.dataclass(frozen=True)
class ReleasePlan:
    """Everything a release will hold.

    Attributes:
        arguments: What the plan was made from; a resumed writing must have the same.
        folders: Folders of the release.
        pictures: (relative path, picture), pictures of one identity next to each other.
        texts: Relative path to contents of lists and readmes, which are written last.
    """

    arguments: dict[str, str | int | float]
    folders: tuple[str, ...]
    pictures: list[tuple[str, Picture]]
    texts: dict[str, bytes]


def _claim(out: Path, plan: ReleasePlan) -> None:
    """Makes sure that `out` is empty or an unfinished release of the same arguments, and marks it."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; --out must name a folder. Choose another.")
    marker = out / _MARKER
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != plan.arguments:
            raise DatasetError(
                f"{out} holds an unfinished release made with other arguments: {marker.name} says {found}, this "
                f"command says {plan.arguments}. Give the same arguments to finish it, or another --out."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise DatasetError(
            f"{out} exists and is not empty, and it is no unfinished release (it has no {_MARKER}). Nothing was "
            "written. Choose another --out, or remove that folder if it may go."
        )
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / (_MARKER + ".tmp")
    temporary.write_text(json.dumps(plan.arguments), encoding="utf-8")
    temporary.rename(marker)


def _write(out: Path, name: str, data: bytes) -> None:
    """Writes under a temporary name, then renames: a file that has its name is complete."""
    temporary = out / _PARTIAL / str(os.getpid())
    temporary.write_bytes(data)
    temporary.replace(out / name)


def write_release(plan: ReleasePlan, out: Path, workers: int, *, progress: bool = True) -> int:
    """Writes a release, or what is missing of it.

    Args:
        plan: What to write.
        out: The folder that becomes the release's top.
        workers: Number of rendering processes.
        progress: Whether to show a progress bar on stderr.

    Returns:
        How many pictures were already there from an earlier, unfinished writing.

    Raises:
        DatasetError: When `out` holds something else, or cannot be written.
    """
    try:
        _claim(out, plan)
        (out / _PARTIAL).mkdir(exist_ok=True)
        for folder in plan.folders:
            (out / folder).mkdir(exist_ok=True)
        present = {f"{folder}/{entry.name}" for folder in plan.folders for entry in (out / folder).iterdir()}
        missing = [(name, picture) for name, picture in plan.pictures if name not in present]
        chunks = [missing[i : i + _CHUNK] for i in range(0, len(missing), _CHUNK)]
        done = len(plan.pictures) - len(missing)
        with progress_bar(len(plan.pictures), out.name, initial=done, disable=not progress) as bar:
            files = take_all([[picture for _, picture in chunk] for chunk in chunks], workers)
            for chunk, encoded in zip(chunks, files, strict=True):
                for (name, _), data in zip(chunk, encoded, strict=True):
                    _write(out, name, data)
                bar.update(len(chunk))
        for name, text in plan.texts.items():
            _write(out, name, text)
        shutil.rmtree(out / _PARTIAL)
        (out / _MARKER).unlink()
    except OSError as error:
        raise DatasetError(
            f"Cannot write the release to {out}: {error}. Make room or allow writing there, then run the same "
            "command again: it goes on where it stopped."
        ) from error
    return done
