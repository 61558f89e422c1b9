"""Safe unpacking of a release that is still in the archive it was downloaded as."""

import contextlib
import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tfds_builders.annotations import find_name_problem
from tfds_builders.errors import DatasetError
from tfds_builders.progress import progress_bar

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Pictures hardly compress, so a release is about as large as its archive. One that claims to unpack to more
# than this many times its size is a decompression bomb.
MAX_EXPANSION = 20
_ALWAYS_ALLOWED_BYTES = 100 << 20
_MAX_MEMBERS = 10_000_000
_CHUNK_BYTES = 1 << 20

# What the standard library raises, somewhere, for a damaged archive.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
)


class Member(NamedTuple):
    """One entry of an archive: a regular file where `problem` is None and `is_folder` is false."""

    name: str
    size: int
    is_folder: bool
    problem: str | None
    handle: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of an archive this module unpacks."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def list_members(path: Path) -> list[str]:
    """The names of an archive's entries, as written in it.

    Raises:
        DatasetError: the file is no archive of its kind, or is damaged.
    """
    with _open(path) as archive:
        return [member.name for member in _iterate_members(path, archive)]


def unpack(path: Path, extract_dir: Path) -> Path:
    """Unpacks an archive into a folder of its own below `extract_dir`, or finds it unpacked already.

    Everything is first unpacked under a temporary name and then renamed, so that an interrupted run leaves no
    folder that looks complete. The folder's name holds a fingerprint of the archive's size and date, so that
    a changed archive is unpacked anew.

    Args:
        path: a zip or tar archive.
        extract_dir: where the folder goes; it is created when needed.

    Returns:
        The folder.

    Raises:
        DatasetError: the archive is damaged or encrypted, an entry would land outside the folder or is a
            link or a device, or the entries are far larger than the archive.
    """
    status = path.stat()
    fingerprint = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]
    target = extract_dir / f"{path.name}.{fingerprint}"
    if target.is_dir():
        return target
    with _open(path) as archive:
        members = list(_iterate_members(path, archive))
        for member in members:
            if member.problem:
                raise DatasetError(
                    f"The archive {path} is refused: its entry {member.name!r} {member.problem}. Nothing "
                    "was unpacked. Get the archive again, or unpack it by hand after a close look."
                )
        total = sum(member.size for member in members)
        if total > max(MAX_EXPANSION * status.st_size, _ALWAYS_ALLOWED_BYTES):
            raise DatasetError(
                f"The archive {path} is refused: it is {status.st_size:,} bytes but would unpack to "
                f"{total:,}. Pictures do not compress like that; the archive is damaged or malicious."
            )
        extract_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(extract_dir).free
        if total > free:
            raise DatasetError(
                f"There is not enough room to unpack {path}: it needs {total:,} bytes in {extract_dir}, "
                f"where {free:,} are free. Free some, or choose another data_dir."
            )
        temporary = extract_dir / f"incomplete.{target.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _extract(path, archive, members, temporary, total)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


@contextlib.contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """Opens an archive; damage found at any time becomes a `DatasetError`."""
    try:
        with zipfile.ZipFile(path) if path.name.lower().endswith(".zip") else tarfile.open(path) as archive:
            yield archive
    except _DAMAGE as error:
        raise _describe_damage(path, error) from None
    except OSError as error:
        if error.errno is None:  # gzip's and bz2's way of reporting damage
            raise _describe_damage(path, error) from None
        raise DatasetError(
            f"The archive {path} cannot be unpacked: {error}. Nothing was kept. Make room, or check that the "
            "archive can be read and data_dir can be written."
        ) from error
    except RuntimeError as error:  # zipfile's way of asking for a password
        raise DatasetError(
            f"The archive {path} cannot be unpacked: {error}. If it has a password, unpack it by hand with "
            "the password from the release's owners."
        ) from None


def _describe_damage(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"The archive {path} cannot be read: {error or 'it ends too early'}. The download is probably "
        "incomplete; fetch it again."
    )


def _iterate_members(path: Path, archive: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Member]:
    infos: Iterator[zipfile.ZipInfo | tarfile.TarInfo]
    infos = iter(archive.infolist()) if isinstance(archive, zipfile.ZipFile) else iter(archive)
    for count, info in enumerate(infos):
        if count >= _MAX_MEMBERS:
            raise DatasetError(f"The archive {path} is refused: it has more than {_MAX_MEMBERS:,} entries.")
        if isinstance(info, zipfile.ZipInfo):
            name, size, is_folder = info.filename, info.file_size, info.is_dir()
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        else:
            name, size, is_folder = info.name, info.size, info.isdir()
            is_plain = info.isfile() or is_folder
        # "./name" and "folder/" are ordinary ways to write entries.
        problem = find_name_problem(name.removeprefix("./").rstrip("/")) if name not in (".", "./") else None
        if problem is None and not is_plain:
            problem = "is a link or a device, not a plain file"
        yield Member(name, size, is_folder, problem, info)


def _extract(
    path: Path, archive: zipfile.ZipFile | tarfile.TarFile, members: list[Member], folder: Path, total: int
) -> None:
    folder.mkdir(parents=True)
    with progress_bar(total, f"unpacking {path.name}", "B", unit_scale=True) as progress:
        for member in members:
            target = folder / member.name
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source: IO[bytes] | None
            if isinstance(archive, zipfile.ZipFile):
                assert isinstance(member.handle, zipfile.ZipInfo)
                source = archive.open(member.handle)
            else:
                assert isinstance(member.handle, tarfile.TarInfo)
                source = archive.extractfile(member.handle)
            assert source is not None  # only plain files get here
            with source, open(target, "xb") as sink:
                _copy_at_most(source, sink, member.size, path, member.name)
            progress.update(member.size)


def _copy_at_most(source: IO[bytes], sink: IO[bytes], size: int, path: Path, name: str) -> None:
    """Copies a member; more data than the archive's directory declared is a bomb, less is damage."""
    copied = 0
    while chunk := source.read(_CHUNK_BYTES):
        copied += len(chunk)
        if copied > size:
            break
        sink.write(chunk)
    if copied != size:
        raise DatasetError(
            f"The archive {path} is damaged: its entry {name!r} does not have the {size:,} bytes it declares."
        )


def default_extract_dir(data_dir: str | os.PathLike[str]) -> Path:
    """TFDS's own place for unpacked archives below a data directory."""
    return Path(data_dir) / "downloads" / "extracted"
