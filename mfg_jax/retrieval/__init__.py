"""Exact ranking metrics by protocol, search, and reports; knows no config, flags, datasets or models."""

from mfg_jax.retrieval.confidence import Interval, confidence_intervals, format_intervals
from mfg_jax.retrieval.evaluation import QueryExpansion, Reranking, evaluate_protocol
from mfg_jax.retrieval.expansion import average_with_flipped, expand_queries
from mfg_jax.retrieval.features_file import NamedFeatures, load_features, save_features
from mfg_jax.retrieval.protocols import PROTOCOLS, Protocol, get_protocol
from mfg_jax.retrieval.ranked_lists import RankedLists, evenly_by_average_precision, ranked_lists
from mfg_jax.retrieval.ranking import Metrics, evaluate, evaluate_distances
from mfg_jax.retrieval.rerank import rerank
from mfg_jax.retrieval.results import Result, format_table
from mfg_jax.retrieval.retrieval_set import RetrievalSet
from mfg_jax.retrieval.search import search
from mfg_jax.retrieval.verification import Verification, verify

__all__ = [
    "PROTOCOLS",
    "Interval",
    "Metrics",
    "NamedFeatures",
    "Protocol",
    "QueryExpansion",
    "RankedLists",
    "Reranking",
    "Result",
    "RetrievalSet",
    "Verification",
    "average_with_flipped",
    "confidence_intervals",
    "evaluate",
    "evaluate_distances",
    "evaluate_protocol",
    "evenly_by_average_precision",
    "expand_queries",
    "format_intervals",
    "format_table",
    "get_protocol",
    "load_features",
    "ranked_lists",
    "rerank",
    "save_features",
    "search",
    "verify",
]
