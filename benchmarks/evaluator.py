"""How fast is `evaluate`, beside the bare matrix product and other rankers? At VeRi-776's size, features to
metrics.

    python -m benchmarks.evaluator [--untrained] [--rounds=7] [--fastreid=DIR] [--torchreid=DIR]

`--fastreid` and `--torchreid` name a folder that holds the `rank_cylib` of that project, built in place
(`python setup.py build_ext --inplace`); without them, those rows are left out.
"""

import argparse
import functools
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.retrieval_data import clustered_sets, interleaved_times
from mfg_jax.retrieval import RetrievalSet, evaluate

QUERIES, GALLERY, WIDTH, IDENTITIES = 1_678, 11_579, 2_048, 200


def bare_product(query: np.ndarray, gallery: np.ndarray) -> Callable[[], object]:
    """XLA's float32 product of the two, with both already on the device."""
    product = jax.jit(functools.partial(jax.numpy.einsum, "qd,gd->qg", precision="highest"))
    on_device = jax.device_put(query), jax.device_put(gallery)
    return lambda: product(*on_device).block_until_ready()


def load_compiled_ranker(folder: pathlib.Path, name: str) -> Callable[..., Any]:
    """`evaluate_cy` of a `rank_cylib` that was built in `folder`.

    Raises:
        SystemExit: There is none.
    """
    found = sorted(folder.glob("**/rank_cy.*.so"))
    if not found:
        sys.exit(f"{name}: no built rank_cy under {folder}; run `python setup.py build_ext --inplace` there.")
    spec = importlib.util.spec_from_file_location("rank_cy", found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.evaluate_cy


def numpy_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances as those programs compute them, with NumPy's product instead of
    PyTorch's.
    """
    return (query**2).sum(axis=1)[:, None] + (gallery**2).sum(axis=1) - 2 * (query @ gallery.T)


def rank_with(ranker: Callable[..., Any], query: RetrievalSet, gallery: RetrievalSet) -> Any:
    """Features to metrics with a compiled ranker."""
    distances = numpy_distances(query.features, gallery.features)
    return ranker(distances, query.ids, gallery.ids, query.cameras, gallery.cameras, 50)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--untrained", action="store_true", help="embeddings without any order: the worst case"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fastreid", type=pathlib.Path)
    parser.add_argument("--torchreid", type=pathlib.Path)
    options = parser.parse_args()
    query, gallery = clustered_sets(
        QUERIES, GALLERY, WIDTH, identities=IDENTITIES, relevant=GALLERY, trained=not options.untrained
    )
    pairs = int((query.ids[:, None] == gallery.ids).sum())
    print(
        f"{QUERIES:,} x {GALLERY:,} x {WIDTH:,} float32 on {jax.devices()[0].device_kind}; {pairs:,} pairs "
        "of one id"
    )

    work: dict[str, Callable[[], object]] = {
        "bare product, XLA": bare_product(query.features, gallery.features),
        "bare product, NumPy": lambda: query.features @ gallery.features.T,
        "evaluate": lambda: evaluate(query, gallery),
    }
    for name, folder in (("fast-reid", options.fastreid), ("torchreid", options.torchreid)):
        if folder is None:
            print(f"{name}: not given, left out")
            continue
        ranker = load_compiled_ranker(folder, name)
        work[f"{name}, Cython + NumPy"] = functools.partial(rank_with, ranker, query, gallery)
        theirs = rank_with(ranker, query, gallery)
        ours = evaluate(query, gallery)
        # One of them returns the mean, the other each query's value.
        print(f"{name}: mAP {np.mean(theirs[1]):.6f}, ours {ours.mean_ap:.6f}")

    seconds = interleaved_times(work, options.rounds)
    bare = min(seconds["bare product, XLA"])
    print(f"\n{'seconds':<26}{'min':>8}{'median':>8}{'of bare':>9}")
    for name, times in seconds.items():
        print(f"{name:<26}{min(times):>8.3f}{np.median(times):>8.3f}{min(times) / bare:>9.2f}")


if __name__ == "__main__":
    main()
