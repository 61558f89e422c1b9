"""Does `evaluate` stay linear and small in memory up to a gallery of a million?

    python -m benchmarks.evaluator_scale [--untrained] [--largest=1000000] [--figure=docs/evaluator_scale.png]

2,000 queries, embeddings of 512 numbers, galleries from 1,000 up. Each size runs in a process of its own, so
that its peak memory is its own. Prints, for each: seconds of `evaluate` and of the bare product (computed in
tiles of the same size, because the whole product would be 8 GB), and the peak of resident memory above the
embeddings.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np

from benchmarks.retrieval_data import clustered_sets, interleaved_times
from mfg_jax.retrieval import RetrievalSet, distance, evaluate

QUERIES, WIDTH, HITS = 2_000, 512, 50


def forget_peak_memory() -> None:
    """Makes Linux start the record of this process's largest resident memory anew."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def memory(what: str) -> float:
    """Resident memory of this process in MiB: "VmRSS" now, "VmHWM" at its largest."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def bare_product(query: RetrievalSet, gallery: RetrievalSet) -> None:
    """The float32 product alone, tile by tile; nothing is done with it."""
    use = distance.use_devices(None)
    columns = use.gallery_columns(QUERIES, len(gallery), WIDTH)
    on_device = jax.device_put(query.features)
    for start in range(0, len(gallery), columns):
        part = jax.device_put(gallery.features[start : start + columns])
        _product(on_device, part).block_until_ready()


@jax.jit
def _product(query: jax.Array, gallery: jax.Array) -> jax.Array:
    return jax.lax.dot_general(query, gallery, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def measure(size: int, rounds: int, trained: bool) -> dict[str, float]:
    """Seconds and memory for one gallery size, in this process."""
    identities = min(QUERIES, max(1, size // HITS)) if size < QUERIES * HITS else QUERIES // 10
    query, gallery = clustered_sets(
        QUERIES, size, WIDTH, identities=identities, relevant=min(size, identities * HITS), trained=trained
    )
    forget_peak_memory()
    before = memory("VmRSS")
    evaluate(query, gallery)
    peak = memory("VmHWM")
    seconds = interleaved_times(
        {"bare": lambda: bare_product(query, gallery), "evaluate": lambda: evaluate(query, gallery)}, rounds
    )
    return {
        "size": size,
        "evaluate": min(seconds["evaluate"]),
        "bare": min(seconds["bare"]),
        "features": (query.features.nbytes + gallery.features.nbytes) / 2**20,
        "before": before,
        "peak": peak,
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--untrained", action="store_true", help="embeddings without any order: the worst case"
    )
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--figure", type=pathlib.Path)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, 2 if options.only >= 300_000 else 5, not options.untrained)))
        return
    sizes = [
        size
        for size in (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
        if size <= options.largest
    ]
    print(f"{QUERIES:,} queries x gallery x {WIDTH}")
    heads = [("gallery", 10), ("evaluate", 10), ("bare", 8), ("ratio", 7), ("us/item", 9)]
    heads += [("features", 10), ("before", 8), ("peak", 7)]
    print("".join(f"{head:>{width}}" for head, width in heads), "MiB")
    rows = []
    for size in sizes:
        command = [
            sys.executable,
            "-m",
            "benchmarks.evaluator_scale",
            f"--only={size}",
            *(["--untrained"] if options.untrained else []),
        ]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        rows.append(row)
        print(
            f"{size:>10,}{row['evaluate']:>10.3f}{row['bare']:>8.3f}{row['evaluate'] / row['bare']:>7.2f}"
            f"{1e6 * row['evaluate'] / size:>9.2f}{row['features']:>10.0f}{row['before']:>8.0f}{row['peak']:>7.0f}",
            flush=True,
        )
    if options.figure:
        draw(rows, options.figure)


def draw(rows: list[dict[str, float]], path: pathlib.Path) -> None:
    """Seconds against gallery size, on logarithmic axes, with a line of slope one."""
    # Not at the top: it would add to the memory of the processes that are measured.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = np.array([row["size"] for row in rows])
    figure = Figure(figsize=(7.2, 4.4), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    times = np.array([row["evaluate"] for row in rows])
    axes.loglog(sizes, [row["bare"] for row in rows], "s--", color="#777777", label="bare float32 product")
    axes.loglog(sizes, times, "o-", color="#1f6fb4", label="evaluate: features to CMC, mAP, mINP")
    axes.loglog(sizes, times[-1] * sizes / sizes[-1], ":", color="#d95f02", label="slope 1 (linear)")
    axes.set_xlabel("gallery images")
    axes.set_ylabel("seconds, two CPU cores")
    axes.set_title(f"{QUERIES:,} queries, {WIDTH} numbers an embedding", fontsize=11, loc="left")
    axes.grid(color="#e6e6e6")
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
