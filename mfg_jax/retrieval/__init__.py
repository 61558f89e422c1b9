"""Exact ranking metrics by protocol, search, and reports; knows no config, flags, datasets or models."""

from mfg_jax.retrieval.evaluation import evaluate_protocol
from mfg_jax.retrieval.protocols import PROTOCOLS, Protocol, get_protocol
from mfg_jax.retrieval.ranking import Metrics, evaluate
from mfg_jax.retrieval.results import Result, format_table
from mfg_jax.retrieval.retrieval_set import RetrievalSet
from mfg_jax.retrieval.search import search

__all__ = [
    "PROTOCOLS",
    "Metrics",
    "Protocol",
    "Result",
    "RetrievalSet",
    "evaluate",
    "evaluate_protocol",
    "format_table",
    "get_protocol",
    "search",
]
