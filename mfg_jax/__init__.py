"""MFG-Net vehicle re-identification in JAX.

In a notebook:

    import mfg_jax

    model = mfg_jax.load("runs/vric")
    queries = model.embed(["one.jpg", "another.jpg"])
    gallery = mfg_jax.load_features("gallery.parquet")  # of `python -m mfg_jax embed`
    indices, distances = mfg_jax.search(queries, gallery.features.features, k=10)
    mfg_jax.show(["one.jpg", "another.jpg"], gallery_paths, indices, distances)
    metrics = mfg_jax.evaluate(query, gallery)  # of mfg_jax.RetrievalSet
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfg_jax.display import show
    from mfg_jax.inference import Embedder, load
    from mfg_jax.retrieval import RetrievalSet, evaluate, load_features, save_features, search

__all__ = ["Embedder", "RetrievalSet", "evaluate", "load", "load_features", "save_features", "search", "show"]

_MODULES = {
    "Embedder": "mfg_jax.inference",
    "RetrievalSet": "mfg_jax.retrieval",
    "evaluate": "mfg_jax.retrieval",
    "load": "mfg_jax.inference",
    "load_features": "mfg_jax.retrieval",
    "save_features": "mfg_jax.retrieval",
    "search": "mfg_jax.retrieval",
    "show": "mfg_jax.display",
}


def __getattr__(name: str) -> Any:
    """Imports the notebook API when it is first used: input workers import this package too, and need no JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mfg_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Shows the notebook API to completion."""
    return sorted({*globals(), *__all__})
