"""MFG-Net vehicle re-identification in JAX.

In a notebook:

    import mfg_jax

    model = mfg_jax.load("runs/vric")
    features = model.embed(["one.jpg", "another.jpg"])
    indices, distances = mfg_jax.search(features, gallery_features, k=10)
    metrics = mfg_jax.evaluate(query, gallery)  # of mfg_jax.RetrievalSet
"""

from mfg_jax.inference import Embedder, load
from mfg_jax.retrieval import RetrievalSet, evaluate, search

__all__ = ["Embedder", "RetrievalSet", "evaluate", "load", "search"]
