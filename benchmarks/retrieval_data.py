"""Embeddings for measurements: clusters round a centre for each vehicle, as a trained network makes them."""

import time
from collections.abc import Callable

import numpy as np

from mfg_jax.retrieval import RetrievalSet

_CLARITY = (1.3, 4.0)


def clustered_sets(
    queries: int,
    gallery: int,
    width: int,
    *,
    identities: int,
    relevant: int,
    cameras: int = 19,
    trained: bool = True,
    seed: int = 0,
) -> tuple[RetrievalSet, RetrievalSet]:
    """A query and a gallery set of unit-norm embeddings.

    Args:
        queries: Number of queries.
        gallery: Number of gallery images.
        width: Of an embedding.
        identities: Vehicles that the queries show.
        relevant: Gallery images that show one of these vehicles; the others show vehicles of their own.
        cameras: Number of cameras.
        trained: Whether images of a vehicle lie together as a good network's do (at VeRi-776's size, mAP 0.8
            and mINP 0.5), or anywhere, as an untrained one's.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((identities, width), dtype=np.float32)

    def some(size: int, ids: np.ndarray) -> RetrievalSet:
        features = rng.standard_normal((size, width), dtype=np.float32)
        known = np.flatnonzero(ids < identities)
        if trained:
            # Some pictures show their vehicle better than others.
            clarity = rng.uniform(*_CLARITY, (len(known), 1)) / width**0.25
            features[known] += centres[ids[known]] * clarity.astype(np.float32)
        features /= np.sqrt(np.einsum("nd,nd->n", features, features))[:, None]
        return RetrievalSet(features, ids, rng.integers(0, cameras, size))

    gallery_ids = np.concatenate(
        [rng.integers(0, identities, relevant), identities + np.arange(gallery - relevant) // 10]
    )
    return some(queries, np.sort(rng.integers(0, identities, queries))), some(gallery, gallery_ids)


def interleaved_times(
    work: dict[str, Callable[[], object]], rounds: int, settle: int = 0
) -> dict[str, list[float]]:
    """Seconds of each piece of work, `rounds` times, in turn, after one round that compiles and warms up.

    Taking turns gives each its share of whatever else the machine does; compare the minima. In every turn, `settle`
    untimed calls come first: what runs over and over in use should not pay for the memory that another took from it.
    """
    for run in work.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            for _ in range(settle):
                run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds
