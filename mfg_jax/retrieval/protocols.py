"""The test protocols of the field: what is ranked against what, what is left out, how often it is repeated.

Only NumPy, so that a protocol can be read, listed and tested without any device.
"""

import dataclasses
import difflib

import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError

IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to test, as its dataset's authors (or `source`) defined it.

    Attributes:
        name: Name printed with every result.
        query_split: Split that holds the queries.
        gallery_split: Split that holds the gallery. When it is the query split, each draw takes one random
            image of every identity as the gallery and ranks it for all the others.
        exclude_same_camera: Whether, for each query, gallery images of its identity *and* camera are left
            out. None: they are where the sets know more than one camera.
        repeats: Number of draws; a result is their mean and standard deviation.
        source: Where the definition comes from.
    """

    name: str
    query_split: str
    gallery_split: str
    exclude_same_camera: bool | None
    repeats: int
    source: str

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have to be embedded."""
        return (self.query_split,) if self.draws_gallery else (self.query_split, self.gallery_split)

    @property
    def draws_gallery(self) -> bool:
        """Whether the gallery is drawn at random from the one split."""
        return self.query_split == self.gallery_split


def draw_gallery(ids: npt.ArrayLike, seed: int, draw: int) -> tuple[IntArray, IntArray]:
    """One random image of every identity for the gallery, all others as queries (the VehicleID protocol).

    Each image gets a random 64-bit key, and the smallest key of an identity wins. The keys are the raw stream
    of PCG64, which NumPy promises never to change; the sampling methods built on it carry no such promise.

    Args:
        ids: (N,) identities.
        seed: Any integer of at least 0.
        draw: Number of the draw, from 0.

    Returns:
        Indices of the queries and of the gallery, both ascending, int64. An identity with one image has no
        query.
    """
    labels = np.asarray(ids)
    keys = np.random.PCG64(np.random.SeedSequence([seed, draw])).random_raw(len(labels))
    order = np.lexsort((keys, labels))
    is_first = np.ones(len(labels), bool)
    is_first[1:] = labels[order[1:]] != labels[order[:-1]]
    gallery = np.sort(order[is_first])
    return np.setdiff1d(np.arange(len(labels)), gallery), gallery


def _query_and_gallery(name: str, source: str, exclude_same_camera: bool | None = True) -> Protocol:
    return Protocol(name, "query", "gallery", exclude_same_camera, 1, source)


def _vehicleid(size: int) -> Protocol:
    source = "Liu et al., Deep Relative Distance Learning (CVPR 2016); ten draws as the field reports them"
    return Protocol(f"vehicleid-{size}", f"test_{size}", f"test_{size}", False, 10, source)


def _veri_wild(size: int) -> Protocol:
    source = "Lou et al., VERI-Wild (CVPR 2019)"
    return Protocol(f"veri-wild-{size}", f"query_{size}", f"gallery_{size}", True, 1, source)


_ALL = (
    _query_and_gallery("veri776", "Liu et al., VeRi-776 (ECCV 2016)"),
    *(_vehicleid(size) for size in (800, 1600, 2400, 3200, 6000, 13164)),
    _query_and_gallery("vric", "Kanaci et al., VRIC (GCPR 2018); probe and gallery never share a camera"),
    *(_veri_wild(size) for size in (3000, 5000, 10000)),
    _query_and_gallery("csv", "the user's own lists", exclude_same_camera=None),
    _query_and_gallery("synthetic", "this project's rendered vehicles"),
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: There is none; the message names the nearest ones.
    """
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=2, cutoff=0.4)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise UserError(f'There is no protocol "{name}".{hint} Known: {", ".join(PROTOCOLS)}.')
    return PROTOCOLS[name]
