"""MFG-Net vehicle re-identification in JAX.

In a notebook:

    import mfg_jax

    model = mfg_jax.load("runs/vric")
    features = model.embed(["one.jpg", "another.jpg"])
    indices, distances = mfg_jax.search(features, gallery_features, k=10)
    metrics = mfg_jax.evaluate(query, gallery)  # of mfg_jax.RetrievalSet
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfg_jax.inference import Embedder, load
    from mfg_jax.retrieval import RetrievalSet, evaluate, search

__all__ = ["Embedder", "RetrievalSet", "evaluate", "load", "search"]


def __getattr__(name: str) -> Any:
    """Imports the notebook API when it is first used: input workers import this package too, and need no JAX."""
    if name in ("Embedder", "load"):
        from mfg_jax import inference

        return getattr(inference, name)
    if name in ("RetrievalSet", "evaluate", "search"):
        from mfg_jax import retrieval

        return getattr(retrieval, name)
    raise AttributeError(f"module 'mfg_jax' has no attribute {name!r}")
