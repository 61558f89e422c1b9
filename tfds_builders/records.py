"""What is known about one picture of a release, read from its lists alone."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One picture of a split.

    Attributes:
        name: the picture's path below the split's image folder, with forward slashes, as the release's list
            gives it (with its suffix). It is unique within the split.
        id: the vehicle's identity, as the release numbers it (0 or more).
        camera: the camera's number, or None where the release has no cameras.
        color: the vehicle's colour as an English word, or None where it is not known.
        type: the vehicle's body type ("sedan", "bus", ...), or None where it is not known.
        model: the vehicle's model as the release names it, or None where it is not known.
        frame: the frame number within the camera's video, or None where it is not known.
    """

    name: str
    id: int
    camera: int | None = None
    color: str | None = None
    type: str | None = None
    model: str | None = None
    frame: int | None = None


def fingerprint(splits: Mapping[str, Sequence[Record]]) -> str:
    """A hash of all that the lists say: equal where every split has equal records in the same order."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        digest.update(f"{split} {len(splits[split])}\n".encode())
        for record in splits[split]:
            digest.update(repr(dataclasses.astuple(record)).encode())
    return digest.hexdigest()
