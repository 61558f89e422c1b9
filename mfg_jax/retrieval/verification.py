"""Are these two the same vehicle? ROC over all pairs, and the distance threshold for a rate of false
alarms.
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError
from mfg_jax.retrieval import distance
from mfg_jax.retrieval.ranking import relevant_pairs
from mfg_jax.retrieval.retrieval_set import FloatArray, IntArray, RetrievalSet, check_pair

_ROWS_A_TASK = 64
_BINS = 2**16  # by the upper half of a float32's bits: 128 bins for each doubling of the squared distance
_INFINITY_BIN = 0x7F80  # the upper half of infinity; finite distances are in the bins below


@dataclasses.dataclass(frozen=True)
class Verification:
    """How well a distance threshold tells pairs of one vehicle from pairs of two.

    A pair is called the same vehicle when its Euclidean distance is *less than* the threshold.

    Attributes:
        false_positive_rate: (F,) float64 rates asked for.
        true_positive_rate: (F,) float64 share of same-vehicle pairs found at the threshold of each.
        threshold: (F,) float64 Euclidean distance: the largest that calls no larger share of other pairs the
            same.
        same_pairs: Number of pairs of one vehicle.
        other_pairs: Number of pairs of two vehicles. A rate below 1 / other_pairs allows no false alarm at
            all.
        roc: (R, 3) float64 points of the ROC curve, each exact: false positive rate, true positive rate,
            threshold.
    """

    false_positive_rate: npt.NDArray[np.float64]
    true_positive_rate: npt.NDArray[np.float64]
    threshold: npt.NDArray[np.float64]
    same_pairs: int
    other_pairs: int
    roc: npt.NDArray[np.float64]


def verify(
    query: RetrievalSet,
    gallery: RetrievalSet,
    exclude_same_camera: bool = True,
    false_positive_rates: Sequence[float] = (1e-4, 1e-3, 1e-2),
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Verification:
    """Measures verification over all pairs of a query and a gallery image that the protocol keeps.

    The thresholds are exact order statistics of all distances, found in one pass that keeps only the
    smallest.

    Args:
        query: Query set.
        gallery: Gallery set; its features may be memory-mapped.
        exclude_same_camera: Leave out pairs of the same identity and camera, as in `evaluate`.
        false_positive_rates: Rates between 0 and 1.
        devices: As in `evaluate`.

    Raises:
        UserError: A rate is not between 0 and 1, one kind of pair is missing, or what `evaluate` raises.
    """
    rates = np.asarray(false_positive_rates, np.float64)
    if rates.ndim != 1 or not ((rates > 0) & (rates < 1)).all():
        raise UserError(f"False positive rates lie between 0 and 1; got {false_positive_rates}.")
    check_pair(query.features, gallery.features)
    query_norms = distance.checked_squared_norms(query.features, "query")
    norms = distance.checked_squared_norms(gallery.features, "gallery")
    by_id = np.argsort(gallery.ids, kind="stable")
    use = distance.use_devices(devices)
    rows = use.query_rows(len(query), None)

    order = np.argsort(query.ids, kind="stable")
    of_one_id = sum(
        len(relevant_pairs(query, gallery, by_id, order[start : start + rows], False).row)
        for start in range(0, len(query), rows)
    )
    other_pairs = len(query) * len(gallery) - of_one_id
    keep = int(rates.max(initial=0.0) * other_pairs) + 1
    smallest = _Smallest(keep)
    same = []
    bins = np.zeros(_BINS, np.int64)
    for start in range(0, len(query), rows):
        block = order[start : start + rows]
        pairs = relevant_pairs(query, gallery, by_id, block, exclude_same_camera)
        features = query.features[block]
        for tile in distance.distance_tiles(use, rows, features, gallery.features, norms):
            inside = np.flatnonzero((pairs.item >= tile.start) & (pairs.item < tile.stop))
            squared = np.maximum(tile.values + query_norms[block, None], np.float32(0))
            row, column = pairs.row[inside], pairs.item[inside] - tile.start
            same.append(squared[row, column][~pairs.junk[inside]])
            squared[row, column] = np.inf
            bins += _histogram(squared)
            smallest.add(squared)
    same_squared = np.sort(np.concatenate(same))
    if not len(same_squared) or not other_pairs:
        kind = "of one vehicle" if not len(same_squared) else "of two vehicles"
        raise UserError(f"There is no pair {kind} between the query and the gallery set.")

    allowed = (rates * other_pairs).astype(np.int64)
    bound = smallest.sorted()[allowed]
    found = np.searchsorted(same_squared, bound, side="left")
    return Verification(
        false_positive_rate=rates,
        true_positive_rate=found / len(same_squared),
        threshold=np.sqrt(bound.astype(np.float64)),
        same_pairs=len(same_squared),
        other_pairs=other_pairs,
        roc=_roc(bins, same_squared, other_pairs),
    )


class _Smallest:
    """The smallest `keep` of all finite numbers given, in memory for about three times as many."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._bound = np.float32(np.inf)
        self._parts: list[FloatArray] = []
        self._held = 0

    def add(self, values: FloatArray) -> None:
        """Takes (Q, G) numbers into account, some rows at a time."""
        for start in range(0, len(values), _ROWS_A_TASK):
            part = values[start : start + _ROWS_A_TASK]
            part = part[part < self._bound]
            self._parts.append(part)
            self._held += len(part)
            if self._held > 2 * self._keep:
                self._shrink()

    def _shrink(self) -> None:
        joined = np.concatenate(self._parts)
        if len(joined) > self._keep:
            joined = np.partition(joined, self._keep - 1)[: self._keep]
            # Numbers equal to the largest kept need no place: they would not change the sorted result.
            self._bound = joined.max()
        self._parts, self._held = [joined], len(joined)

    def sorted(self) -> FloatArray:
        """(keep,) float32, ascending."""
        self._shrink()
        return np.sort(self._parts[0])


def _histogram(squared: FloatArray) -> IntArray:
    """(_BINS,) counts by the upper 16 bits, which order non-negative floats; infinity is left out."""

    def count(start: int) -> IntArray:
        upper = (squared[start : start + _ROWS_A_TASK].view(np.uint32) >> np.uint32(16)).ravel()
        return np.bincount(upper.astype(np.int64), minlength=_BINS)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        total = sum(threads.map(count, range(0, len(squared), _ROWS_A_TASK)), np.zeros(_BINS, np.int64))
    total[_INFINITY_BIN] = 0
    return total


def _roc(bins: IntArray, same_squared: FloatArray, other_pairs: int) -> npt.NDArray[np.float64]:
    """Points of the curve at the bins' lower edges, where both counts are exact."""
    edges = (np.arange(_INFINITY_BIN, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    before = (np.cumsum(bins) - bins)[:_INFINITY_BIN]
    found = np.searchsorted(same_squared, edges, side="left")
    points = np.stack(
        [before / other_pairs, found / len(same_squared), np.sqrt(edges.astype(np.float64))], axis=1
    )
    # Beyond the last pair, and before the first, the curve stands still; one point of each end stays.
    moves = np.any(np.diff(points[:, :2], axis=0) != 0, axis=1)
    return points[np.r_[moves, False] | np.r_[False, moves]]
