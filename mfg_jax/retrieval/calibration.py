"""A distance threshold for "the same vehicle", from labelled embeddings, and the errors to expect of it."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError
from mfg_jax.retrieval.results import write_text
from mfg_jax.retrieval.retrieval_set import RetrievalSet
from mfg_jax.retrieval.verification import verify

FORMAT_VERSION = 1
# The camera of an image of which none is known.
NO_CAMERA = -1
# `verify` keeps the share of all distances that its largest rate asks for; the curve needs none of them.
_RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A distance below which two pictures are called the same vehicle.

    Attributes:
        distance: Euclidean.
        false_alarms: share of the pairs of two vehicles that it calls the same.
        found: share of the pairs of one vehicle that it calls the same.
    """

    distance: float
    false_alarms: float
    found: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How often the pairs of a labelled set lie nearer than a distance.

    Attributes:
        roc: (R, 3) float64, each row exact: false positive rate, true positive rate, Euclidean distance; ascending.
        vehicles: identities of the set.
        images: images of the set.
        same_pairs: pairs of one vehicle; of one camera they do not count, where cameras are known.
        other_pairs: pairs of two vehicles.
        context: whatever else the caller wants kept: network, features file. JSON values only.
    """

    roc: npt.NDArray[np.float64]
    vehicles: int
    images: int
    same_pairs: int
    other_pairs: int
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def threshold(self, false_alarms: float) -> Threshold:
        """The largest distance of the curve that calls no more than this share of other pairs the same.

        Raises:
            UserError: the rate is not between 0 and 1, or too small for the number of pairs.
        """
        if not 0 < false_alarms < 1:
            raise UserError(f"A rate of false alarms lies between 0 and 1; got {false_alarms:g}.")
        if false_alarms * self.other_pairs < 1:
            raise UserError(
                f"A rate of false alarms of {false_alarms:g} cannot be told from {self.other_pairs:,} pairs of two "
                f"vehicles. Ask for {1 / self.other_pairs:.2g} or more, or calibrate on more pictures."
            )
        row = int(np.searchsorted(self.roc[:, 0], false_alarms, side="right")) - 1
        return self._row(row)

    def beyond(self, distance: float) -> Threshold:
        """The smallest threshold of the curve that calls pairs at this distance the same."""
        row = int(np.searchsorted(self.roc[:, 2], distance, side="right"))
        return self._row(min(row, len(self.roc) - 1))

    def _row(self, row: int) -> Threshold:
        false_alarms, found, distance = self.roc[max(row, 0)].tolist()
        return Threshold(distance, false_alarms, found)

    def describe(self) -> str:
        """What it was measured on, in one line."""
        return (
            f"{self.images:,} pictures of {self.vehicles:,} vehicles: {self.same_pairs:,} pairs of one vehicle, "
            f"{self.other_pairs:,} of two"
        )

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes it to `path`, which is complete or not there at all."""
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "roc": self.roc.tolist()}
        write_text(path, json.dumps(values) + "\n")

    @staticmethod
    def from_json(path: str | os.PathLike[str]) -> "Calibration":
        """Reads what `to_json` wrote.

        Raises:
            UserError: the file is missing or is not such a calibration.
        """
        try:
            values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            if values.pop("format_version") != FORMAT_VERSION:
                raise ValueError("of another version")
            roc = np.array(values.pop("roc"), np.float64)
            if roc.ndim != 2 or roc.shape[1] != 3 or not len(roc):
                raise ValueError("without a curve")
            return Calibration(roc=roc, **values)
        except OSError as error:
            raise UserError(f"The calibration {path} cannot be read: {error.strerror}.") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a calibration ({error}). Calibrate again to write it anew."
            ) from error


def calibrate(
    features: RetrievalSet,
    context: Mapping[str, Any] | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Calibration:
    """Measures the distances of all pairs of a labelled set.

    Of one vehicle, only pairs of two cameras count, as in the protocols; where a camera is not known (`NO_CAMERA`), all
    pairs of two images do.

    Args:
        features: embeddings with identities.
        context: JSON values to keep.
        devices: as in `evaluate`.

    Raises:
        UserError: there is no pair of one vehicle, or none of two.
    """
    # An image is not a pair with itself: a camera of its own for each leaves that out, and nothing else.
    own = -2 - np.arange(len(features), dtype=np.int64)
    cameras = np.where(features.cameras == NO_CAMERA, own, features.cameras)
    each = RetrievalSet(features.features, features.ids, cameras)
    measured = verify(each, each, True, (_RATE,), devices=devices)
    return Calibration(
        roc=measured.roc,
        vehicles=len(np.unique(features.ids)),
        images=len(features),
        # Every pair was met from both sides.
        same_pairs=measured.same_pairs // 2,
        other_pairs=measured.other_pairs // 2,
        context=dict(context or {}),
    )
