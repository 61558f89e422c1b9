"""Exact ranking metrics by protocol, search, and reports; knows no config, flags, datasets or models."""

from mfg_jax.retrieval.evaluation import evaluate_protocol
from mfg_jax.retrieval.protocols import PROTOCOLS, Protocol, get_protocol
from mfg_jax.retrieval.ranked_lists import RankedLists, evenly_by_average_precision, ranked_lists
from mfg_jax.retrieval.ranking import Metrics, evaluate, evaluate_distances
from mfg_jax.retrieval.results import Result, format_table
from mfg_jax.retrieval.retrieval_set import RetrievalSet
from mfg_jax.retrieval.search import search

__all__ = [
    "PROTOCOLS",
    "Metrics",
    "Protocol",
    "RankedLists",
    "Result",
    "RetrievalSet",
    "evaluate",
    "evaluate_distances",
    "evaluate_protocol",
    "evenly_by_average_precision",
    "format_table",
    "get_protocol",
    "ranked_lists",
    "search",
]
