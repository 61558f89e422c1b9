"""An independent evaluator, written from the definitions in docs/evaluation.md and nothing else: slow and
plain.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Expected:
    """What one query should get; everything but `hits` is None for a query without a hit."""

    hits: int
    average_precision: float | None
    inverse_negative_penalty: float | None
    first_hit: int | None


def rank_one_query(distances, query_id, query_camera, gallery_ids, gallery_cameras, exclude_same_camera):
    """1-based ranks of the hits of one query, by Python's own stable sort."""
    seen = []
    for place, (distance, identity, camera) in enumerate(
        zip(distances, gallery_ids, gallery_cameras, strict=True)
    ):
        if exclude_same_camera and identity == query_id and camera == query_camera:
            continue
        seen.append((distance, place, identity == query_id))
    seen.sort(key=lambda item: (item[0], item[1]))
    return [rank for rank, (_, _, is_hit) in enumerate(seen, start=1) if is_hit]


def score(ranks, ap):
    """Metrics of one query from the ranks of its hits."""
    if not ranks:
        return Expected(0, None, None, None)
    is_hit = [False] * (ranks[-1] + 1)
    for rank in ranks:
        is_hit[rank] = True

    def precision(rank):
        return 1.0 if rank == 0 else sum(is_hit[1 : rank + 1]) / rank

    if ap == "standard":
        terms = [precision(rank) for rank in ranks]
    else:
        terms = [(precision(rank - 1) + precision(rank)) / 2 for rank in ranks]
    return Expected(len(ranks), sum(terms) / len(ranks), len(ranks) / ranks[-1], ranks[0])


def squared_distances(query, gallery):
    """(Q, G) float64, from the differences."""
    difference = np.asarray(query, np.float64)[:, None, :] - np.asarray(gallery, np.float64)[None, :, :]
    return (difference**2).sum(axis=2)


def evaluate_plainly(distances, query, gallery, exclude_same_camera, ap):
    """One `Expected` for each query."""
    return [
        score(
            rank_one_query(
                distances[row].tolist(),
                int(query.ids[row]),
                int(query.cameras[row]),
                gallery.ids.tolist(),
                gallery.cameras.tolist(),
                exclude_same_camera,
            ),
            ap,
        )
        for row in range(len(query.ids))
    ]


def cmc_plainly(expected, max_rank):
    """CMC over the counted queries."""
    first = [one.first_hit for one in expected if one.hits]
    return [sum(rank <= k for rank in first) / len(first) for k in range(1, max_rank + 1)]
