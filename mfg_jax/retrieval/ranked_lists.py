"""The first images of each query's ranking, as people look at them, and the file that keeps them."""

import dataclasses
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError
from mfg_jax.retrieval.retrieval_set import BoolArray, FloatArray, IntArray, RetrievalSet
from mfg_jax.retrieval.search import search


@dataclasses.dataclass(frozen=True)
class RankedLists:
    """The first K images of R rankings, after removing what the protocol excludes.

    Attributes:
        query: (R,) int64 index of each query.
        gallery: (R, K) int64 index of each result, -1 where the gallery is exhausted.
        distance: (R, K) float32 Euclidean distance, infinite where exhausted.
        correct: (R, K) bool; the result shows the query's identity.
    """

    query: IntArray
    gallery: IntArray
    distance: FloatArray
    correct: BoolArray


def ranked_lists(
    query: RetrievalSet,
    gallery: RetrievalSet,
    query_index: npt.ArrayLike,
    length: int = 10,
    exclude_same_camera: bool = True,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> RankedLists:
    """Ranks the gallery for some queries.

    Args:
        query: Query set.
        gallery: Gallery set.
        query_index: (R,) which queries.
        length: Results of each list.
        exclude_same_camera: As in `evaluate`: leave out gallery images of the query's identity and camera.
        devices: As in `search`.

    Raises:
        UserError: What `search` raises.
    """
    rows = np.asarray(query_index, np.int64)
    ids, cameras = query.ids[rows, None], query.cameras[rows, None]
    most_junk = _most_of_one_identity_and_camera(query.take(rows), gallery) if exclude_same_camera else 0
    index, distance = search(
        query.features[rows], gallery.features, min(len(gallery), length + most_junk), devices=devices
    )
    # A stable sort by "is junk" moves junk behind the rest and keeps the order otherwise.
    is_junk = exclude_same_camera & (gallery.ids[index] == ids) & (gallery.cameras[index] == cameras)
    order = np.argsort(is_junk, axis=1, kind="stable")[:, :length]
    index, distance, is_junk = (
        np.take_along_axis(values, order, axis=1) for values in (index, distance, is_junk)
    )
    index = np.where(is_junk, -1, index)
    distance = np.where(is_junk, np.float32(np.inf), distance)
    missing = length - index.shape[1]
    if missing > 0:
        index = np.pad(index, ((0, 0), (0, missing)), constant_values=-1)
        distance = np.pad(distance, ((0, 0), (0, missing)), constant_values=np.inf)
    return RankedLists(rows, index, distance, (index >= 0) & (gallery.ids[index] == ids))


def save_ranked_lists(
    path: str | os.PathLike[str], lists: RankedLists, fingerprints: Mapping[str, str]
) -> None:
    """Writes ranked lists as npz, which is complete or not there at all.

    Args:
        path: Ends in .npz.
        lists: Whose indices are places in the splits.
        fingerprints: Of the splits, by name, so that a reader can tell whether it has the same images.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".lists-") as folder:
        part = pathlib.Path(folder) / target.name
        np.savez_compressed(
            part,
            query=lists.query,
            gallery=lists.gallery,
            distance=lists.distance,
            correct=lists.correct,
            splits=np.array(list(fingerprints), np.str_),
            fingerprints=np.array(list(fingerprints.values()), np.str_),
        )
        os.replace(part, target)


def load_ranked_lists(path: str | os.PathLike[str]) -> tuple[RankedLists, dict[str, str]]:
    """Reads what `save_ranked_lists` wrote: the lists, and the fingerprints of their splits.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        # NumPy leaves a damaged file open if it opened it itself.
        with pathlib.Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        lists = RankedLists(*(values[field.name] for field in dataclasses.fields(RankedLists)))
        fingerprints = dict(zip(values["splits"].tolist(), values["fingerprints"].tolist(), strict=True))
    except FileNotFoundError as error:
        raise UserError(
            f"There are no ranked lists {path}. An evaluation writes them beside its result; evaluate again "
            "(--mode=evaluate) if the result is older than they are."
        ) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"The ranked lists {path} are damaged ({error}). Evaluate again (--mode=evaluate) to write them anew."
        ) from error
    shape = (len(lists.query), lists.gallery.shape[-1])
    if any(values.shape != shape for values in (lists.gallery, lists.distance, lists.correct)):
        raise UserError(f"The ranked lists {path} are damaged: their arrays differ in shape.")
    return lists, fingerprints


def _most_of_one_identity_and_camera(query: RetrievalSet, gallery: RetrievalSet) -> int:
    """The most gallery images that share identity and camera with any one query."""
    ids, cameras = (
        np.concatenate([getattr(query, name), getattr(gallery, name)]) for name in ("ids", "cameras")
    )
    _, pair = np.unique(np.stack([ids, cameras], axis=1), axis=0, return_inverse=True)
    counts = np.bincount(pair[len(query) :], minlength=int(pair.max(initial=0)) + 1)
    return int(counts[pair[: len(query)]].max(initial=0))


def evenly_by_average_precision(average_precision: npt.ArrayLike, count: int) -> IntArray:
    """Queries from the best to the worst in even steps, so that a picture of them flatters nobody.

    Args:
        average_precision: (Q,) NaN where not counted.
        count: How many queries.

    Returns:
        (min(count, counted),) int64 query indices, in falling order of average precision.
    """
    values = np.asarray(average_precision, np.float64)
    order = np.argsort(-values, kind="stable")[: int((~np.isnan(values)).sum())]
    places = np.linspace(0, len(order) - 1, min(count, len(order)))
    return order[np.round(places).astype(np.int64)]
