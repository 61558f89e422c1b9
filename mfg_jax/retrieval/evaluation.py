"""Runs a protocol: takes the embedded splits, makes the draws, ranks, and returns a result that can be
cited.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mfg_jax.errors import UserError
from mfg_jax.retrieval.expansion import expand_queries
from mfg_jax.retrieval.protocols import Protocol, draw_gallery, get_protocol
from mfg_jax.retrieval.ranking import AveragePrecision, Metrics, QueryShare, evaluate, evaluate_distances
from mfg_jax.retrieval.rerank import rerank
from mfg_jax.retrieval.results import Draw, Result
from mfg_jax.retrieval.retrieval_set import IntArray, RetrievalSet


@dataclasses.dataclass(frozen=True)
class Reranking:
    """Settings of k-reciprocal re-ranking; see `rerank`."""

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3


@dataclasses.dataclass(frozen=True)
class QueryExpansion:
    """Settings of alpha query expansion; see `expand_queries`."""

    neighbours: int = 5
    alpha: float = 3.0


def evaluate_protocol(
    protocol: Protocol | str,
    sets: Mapping[str, RetrievalSet],
    *,
    seed: int = 0,
    ap: AveragePrecision = "standard",
    max_rank: int = 50,
    flip: bool = False,
    reranking: Reranking | None = None,
    query_expansion: QueryExpansion | None = None,
    block_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    share: QueryShare | None = None,
    context: Mapping[str, Any] | None = None,
) -> Result:
    """Evaluates embeddings by a protocol.

    Args:
        protocol: A protocol or the name of one (`mfg_jax.retrieval.PROTOCOLS`).
        sets: The embedded splits by name; `Protocol.splits` says which are needed.
        seed: Seed of the draws, where the protocol draws its gallery.
        ap: Form of the average precision.
        max_rank: Length of the CMC curve.
        flip: Recorded in the result: whether the embeddings are averages over an image and its mirror image.
        reranking: Re-rank by k-reciprocal neighbours. The plain result then comes along as `Result.plain`.
        query_expansion: Expand the queries first. The plain result then comes along as `Result.plain`.
        block_size: See `evaluate`.
        devices: See `evaluate`.
        share: See `evaluate`. Expanding queries and re-ranking look at all images together, and are not shared.
        context: JSON values to keep with the result: configuration, step, versions.

    Returns:
        The result, with mean and standard deviation over the draws and every query's own values.

    Raises:
        UserError: A split is missing, or what `evaluate` raises.
    """
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    missing = [split for split in protocol.splits if split not in sets]
    if missing:
        raise UserError(
            f"Protocol {protocol.name} needs the split {' and '.join(missing)}, which is not among those "
            f"embedded: {', '.join(sets) or 'none'}."
        )
    exclude_same_camera = protocol.exclude_same_camera
    if exclude_same_camera is None:
        cameras = [sets[split].cameras for split in protocol.splits]
        exclude_same_camera = len(np.unique(np.concatenate(cameras))) > 1

    def run(
        reranking: Reranking | None, query_expansion: QueryExpansion | None, plain: Result | None
    ) -> Result:
        draws = []
        for number in range(protocol.repeats):
            query, gallery, query_index = _query_and_gallery(protocol, sets, seed, number)
            if query_expansion is not None:
                expanded = expand_queries(
                    query.features, gallery.features, **dataclasses.asdict(query_expansion), devices=devices
                )
                query = dataclasses.replace(query, features=expanded)
            if reranking is not None:
                distances = rerank(
                    query.features, gallery.features, **dataclasses.asdict(reranking), devices=devices
                )
                metrics = evaluate_distances(distances, query, gallery, exclude_same_camera, max_rank, ap)
            else:
                metrics = evaluate(
                    query,
                    gallery,
                    exclude_same_camera,
                    max_rank,
                    ap,
                    block_size,
                    devices=devices,
                    share=share,
                )
            draws.append(_draw(metrics, query, query_index, len(gallery)))
        return Result(
            protocol=protocol.name,
            exclude_same_camera=exclude_same_camera,
            seed=seed,
            distance="euclidean",
            ap=ap,
            reranking=None if reranking is None else dataclasses.asdict(reranking),
            query_expansion=None if query_expansion is None else dataclasses.asdict(query_expansion),
            flip=flip,
            draws=tuple(draws),
            plain=plain,
            context=dict(context or {}),
        )

    plain = run(None, None, None)
    if reranking is None and query_expansion is None:
        return plain
    return run(reranking, query_expansion, plain)


def _query_and_gallery(
    protocol: Protocol, sets: Mapping[str, RetrievalSet], seed: int, number: int
) -> tuple[RetrievalSet, RetrievalSet, IntArray]:
    """Query set, gallery set and the queries' places in their split, of one draw."""
    query = sets[protocol.query_split]
    if not protocol.draws_gallery:
        return query, sets[protocol.gallery_split], np.arange(len(query))
    query_index, gallery_index = draw_gallery(query.ids, seed, number)
    return query.take(query_index), query.take(gallery_index), query_index


def _draw(metrics: Metrics, query: RetrievalSet, query_index: IntArray, gallery_size: int) -> Draw:
    return Draw(
        cmc=metrics.cmc,
        mean_ap=metrics.mean_ap,
        mean_inp=metrics.mean_inp,
        gallery_size=gallery_size,
        query_index=query_index,
        query_id=query.ids,
        average_precision=metrics.average_precision,
        inverse_negative_penalty=metrics.inverse_negative_penalty,
        first_hit=metrics.first_hit,
        hits=metrics.hits,
        excluded=metrics.excluded,
    )
