"""Re-ranking at VeRi-776's size (1,678 + 11,579 images): same numbers as the public program, time and peak
memory.

    python -m benchmarks.reranking [--reference=FILE]

`--reference` names a Python file that defines `re_ranking(q_g_dist, q_q_dist, g_g_dist, k1, k2,
lambda_value)` as fast-reid's `fastreid/evaluation/rerank.py` does. Each runs in a process of its own, so that
its peak memory is its own; the reference's includes making the three distance matrices it asks for.
"""

import argparse
import functools
import pathlib
import resource
import runpy
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.retrieval_data import clustered_sets
from mfg_jax.retrieval import rerank

QUERIES, GALLERY, WIDTH = 1_678, 11_579, 2_048


def euclidean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Euclidean distances as float32, as that program expects them."""
    squared = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    squared -= 2 * (one @ other.T)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def whole_numbers(features: np.ndarray) -> np.ndarray:
    """Unit-norm embeddings, scaled and rounded; every squared distance stays far below 2^24."""
    return np.round(features * np.float32(600))


def run_one(which: str, reference: str, output: str) -> None:
    """Runs one implementation in this process, writes its distances and prints seconds and peak bytes."""
    query, gallery = clustered_sets(QUERIES, GALLERY, WIDTH, identities=200, relevant=GALLERY)
    q, g = whole_numbers(query.features), whole_numbers(gallery.features)
    del query, gallery
    if which == "ours":
        rerank(q[:64], g[:512])  # imports and first compilations
        start = time.perf_counter()
        distances = rerank(q, g)
    else:
        np.argsort = functools.partial(np.argsort, kind="stable")
        theirs = runpy.run_path(reference)["re_ranking"]
        start = time.perf_counter()
        distances = theirs(euclidean(q, g), euclidean(q, q), euclidean(g, g), 20, 6, 0.3)
    seconds = time.perf_counter() - start
    np.save(output, distances)
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_one(options.run[0], str(options.reference), options.run[1])
        return
    features = 4 * WIDTH * (QUERIES + GALLERY) / 2**20
    print(f"{QUERIES + GALLERY:,} images x {WIDTH:,}: features {features:.0f} MiB")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ours", *(("reference",) if options.reference else ())):
            output = str(pathlib.Path(folder) / f"{name}.npy")
            command = [sys.executable, "-m", "benchmarks.reranking", "--run", name, output]
            if options.reference:
                command.append(f"--reference={options.reference}")
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            seconds, peak = (float(value) for value in printed.splitlines()[-1].split())
            found[name] = (seconds, peak, np.load(output))
            print(f"{name:<10}{seconds:>8.2f} s   peak {peak / 2**20:>7.0f} MiB", flush=True)
    if options.reference is None:
        print("reference: not given, left out")
        return
    difference = np.abs(found["ours"][2] - found["reference"][2])
    print(
        f"largest difference {difference.max():.2e}; {found['reference'][0] / found['ours'][0]:.1f} times as "
        f"fast; {found['ours'][1] / found['reference'][1]:.2f} of the peak memory"
    )


if __name__ == "__main__":
    main()
