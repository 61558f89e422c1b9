"""Embeddings with the identity and the camera of each: what every function of this package works on."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """A query or gallery set.

    Attributes:
        features: (N, D) float32 embeddings. Any other real floating type is converted. A memory-mapped
            float32 array stays one: it is read in pieces.
        ids: (N,) int64 identity of each image. Any integer is a valid identity, 0 and negative ones included.
        cameras: (N,) int64 camera of each image. A set without cameras (VehicleID) has any constant here, and
            a protocol that excludes nothing.

    Raises:
        UserError: The shapes or types do not fit together.
    """

    features: FloatArray
    ids: IntArray
    cameras: IntArray

    def __post_init__(self) -> None:
        """Converts to the stated types and checks the shapes."""
        features = as_features(self.features, "features")
        object.__setattr__(self, "features", features)
        for name in ("ids", "cameras"):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or len(values) != len(features):
                raise UserError(
                    f"`{name}` has shape {values.shape}, but there are {len(features)} features. It must "
                    "hold one integer for each of them, in the same order."
                )
            if not np.issubdtype(values.dtype, np.integer) and len(values):
                raise UserError(
                    f"`{name}` has type {values.dtype}. Identities and cameras are integers; number the "
                    "names first, for example with numpy.unique(names, return_inverse=True)."
                )
            if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
                raise UserError(f"`{name}` holds {values.max()}, which does not fit a signed 64-bit integer.")
            object.__setattr__(self, name, values.astype(np.int64, copy=False))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.features)

    def take(self, indices: npt.ArrayLike) -> "RetrievalSet":
        """The images at `indices` (K,) integer or (N,) bool, in that order."""
        chosen = np.asarray(indices)
        return RetrievalSet(self.features[chosen], self.ids[chosen], self.cameras[chosen])


def as_features(features: Any, name: str) -> FloatArray:
    """Features as a (N, D) float32 array, without a copy where they are that already.

    Raises:
        UserError: They are not a matrix of real floating-point numbers.
    """
    if type(features) is not np.memmap:
        features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise UserError(
            f"`{name}` has shape {features.shape}; expected (images, width): one embedding a row."
        )
    if features.dtype != np.float32:
        # bfloat16 is no subtype of NumPy's floating, hence the test by conversion.
        if features.dtype.kind in "biucOSUmM" or not np.can_cast(
            features.dtype, np.float64, casting="same_kind"
        ):
            raise UserError(f"`{name}` has type {features.dtype}; expected float32 embeddings.")
        features = features.astype(np.float32)
    return features


def check_pair(query: FloatArray, gallery: FloatArray) -> None:
    """Checks that a query and a gallery matrix can be compared.

    Raises:
        UserError: One is empty or their widths differ.
    """
    for name, features in (("query", query), ("gallery", gallery)):
        if not len(features):
            raise UserError(f"The {name} set is empty: there is nothing to rank.")
    if query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"Query embeddings have {query.shape[1]} numbers, gallery embeddings {gallery.shape[1]}. Both "
            "must come from the same model."
        )
