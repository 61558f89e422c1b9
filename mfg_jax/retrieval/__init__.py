"""Retrieval: exact ranking metrics by protocol, search, and reports. Knows no config, flags, datasets or models."""

from mfg_jax.retrieval.ranking import Metrics, evaluate
from mfg_jax.retrieval.retrieval_set import RetrievalSet

__all__ = ["Metrics", "RetrievalSet", "evaluate"]
