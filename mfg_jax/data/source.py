"""Splits of a prepared TFDS dataset: random access to encoded images, and their labels as arrays."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow_datasets as tfds

from mfg_jax.errors import UserError
from tfds_builders import build
from tfds_builders.progress import progress_bar

_RECORDS_AT_ONCE = 512
Builder: TypeAlias = tfds.core.DatasetBuilder
# Stands for the camera of an image whose dataset knows none.
NO_CAMERA = -1
# What to do about a damaged record.
BUILD_AGAIN = (
    "The prepared dataset is damaged: delete it and build it again from a sound copy of the release; "
    "`python -m tfds_builders.check --decode` names every bad picture of a release."
)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a dataset.

    Attributes:
        name: such as "train".
        ids: `(N,)` int64 identities, as the release numbers them.
        cameras: `(N,)` int64; `NO_CAMERA` where the dataset has none.
        names: N image names.
        images: random access to records `{"image": bytes}`; picklable, so that worker processes can have it.
    """

    name: str
    ids: np.ndarray
    cameras: np.ndarray
    names: Sequence[str]
    images: Any

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.ids)

    def fingerprint(self) -> str:
        """Tells one list of images from another: a hash of names and identities, in order."""
        text = "\n".join(f"{name} {identity}" for name, identity in zip(self.names, self.ids, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encoded(self, index: int) -> bytes:
        """An image as it was stored, not decoded."""
        return self.images[index]["image"]


def open_dataset(
    dataset: str, *, data_dir: str | os.PathLike | None = None, manual_dir: str | os.PathLike | None = None
) -> Builder:
    """Opens a dataset, building it on first use.

    Args:
        dataset: a name, as in "vric" or "synthetic_vehicles/heavy".
        data_dir: where TFDS keeps prepared datasets; None for its usual place.
        manual_dir: where the release as downloaded lies; None for TFDS's usual place.

    Raises:
        tfds_builders.errors.DatasetError: the release is missing or malformed.
    """
    return build.build(dataset, data_dir=data_dir, manual_dir=manual_dir)


def open_split(builder: Builder, name: str) -> Split:
    """Opens one split and reads its labels in one pass (VRIC's 54,808 records take some seconds, with progress).

    Raises:
        UserError: the dataset has no such split, or a record of it is damaged.
    """
    if name not in builder.info.splits:
        raise UserError(
            f"The dataset {builder.info.full_name} has no split {name!r}; it has {', '.join(builder.info.splits)}. The "
            "release it was built from lacks that list: choose another protocol, or build from a complete copy."
        )
    known = [field for field in ("id", "camera", "name") if field in builder.info.features]
    records = builder.as_data_source(name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    labels = tfds.features.FeaturesDict({field: builder.info.features[field] for field in known})
    columns: dict[str, list[Any]] = {field: [] for field in known}
    with progress_bar(len(records), f"reading labels of {name}", delay=1.0, leave=False) as progress:
        for start in range(0, len(records), _RECORDS_AT_ONCE):
            numbers = range(start, min(start + _RECORDS_AT_ONCE, len(records)))
            try:
                chunk = records.__getitems__(numbers)
            except Exception as error:
                number, reason = find_unreadable(records, numbers) or (start, error)
                raise UserError(
                    f"Record {number} of split {name!r} of {builder.info.full_name}, in {builder.data_path}, cannot be "
                    f"read: {reason} {BUILD_AGAIN}"
                ) from error
            for serialised in chunk:
                record = labels.deserialize_example_np(serialised)
                for field in known:
                    columns[field].append(record[field])
            progress.update(len(chunk))
    ids = np.asarray(columns["id"], np.int64)
    cameras = np.asarray(columns["camera"], np.int64) if "camera" in columns else np.full_like(ids, NO_CAMERA)
    names = [name.decode() for name in columns["name"]]
    image = tfds.features.FeaturesDict({"image": builder.info.features["image"]})
    return Split(name, ids, cameras, names, EncodedImages(records, image))


def find_unreadable(images: Any, numbers: Iterable[int]) -> tuple[int, Exception] | None:
    """The first of some records that cannot be read, with the reason: reading many at once does not tell which it was.

    Args:
        images: random access to records.
        numbers: of the records to try.

    Returns:
        None where each of them can be read.
    """
    for number in numbers:
        try:
            images[number]
        except Exception as error:  # the readers of TFDS raise whatever their C++ parts do
            return number, error
    return None


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Random access to the images of a split as they were stored, `{"image": bytes}`.

    Of each record only the image is parsed: TFDS takes about as long to parse a whole record as it takes to decode a
    small picture, and other threads wait meanwhile.

    Attributes:
        records: serialised, by number.
        image: the feature to parse.
    """

    records: Any
    image: tfds.features.FeaturesDict

    def __getitem__(self, index: int) -> dict[str, bytes]:
        """One image; any integer type will do."""
        return self._parse(self.records[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, bytes]]:
        """Several images, read at once."""
        return [self._parse(serialised) for serialised in self.records.__getitems__(indices)]

    def _parse(self, serialised: bytes) -> dict[str, bytes]:
        return self.image.deserialize_example_np(serialised, decoders={"image": tfds.decode.SkipDecoding()})
