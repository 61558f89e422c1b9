"""What each part of MFG-Net adds, on the synthetic vehicles: five networks, three amounts of occlusion, several seeds.

    python -m benchmarks.ablation [--epochs=12] [--seeds=3] [--occlusions none light heavy] [--jobs=2]
                                  [--workdir=runs/ablation] [--out=docs]

Every cell is the demo's configuration (with batches of 32, which learn more from as many images) with one row's network
and one dataset, trained on the same number of images by the same schedule, and evaluated once, at its end; every row's
embedding is 512 wide. Parts come with branches, so with more parameters and more work: the wider baseline has as much
of both, to tell what is theirs from what is size. A seed decides initial weights, batches and augmentation; the
pictures stay the same. Each of `--jobs` cells at a time has its share of the processor's cores. Writes `ablation.json`
(every run's figures, after each run), `ablation.md` (the tables) and `images/ablation.png` into `--out`.

A command that was stopped goes on where it was, and cells that `ablation.json` holds with as many epochs are not run
again: to repeat them, give another `--out`, or remove that file and the work directory.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import matplotlib.pyplot as plt
from ml_collections import ConfigDict

from configs import synthetic
from mfg_jax import train
from mfg_jax.progress import duration
from mfg_jax.retrieval.results import write_text

# Single vectors are made as wide as eight of the full network, so that no row has a wider embedding.
ROWS: dict[str, dict[str, Any]] = {
    "global baseline": {"granularities": (1,), "attention": "none", "head_width": 512},
    # Multiply-adds as those of three branches, within a tenth.
    "wider baseline": {"granularities": (1,), "attention": "none", "head_width": 512, "width": 24},
    "+ parts": {"granularities": (1, 2, 3), "attention": "none", "head_width": 64},
    "+ attention": {"granularities": (1,), "attention": "branch", "head_width": 512},
    "full MFG-Net": {"granularities": (1, 2, 3), "attention": "branch", "head_width": 64},
}
OCCLUSIONS = ("none", "light", "heavy")
FIGURES = {"mAP": "mAP", "mINP": "mINP", "cmc@1": "Rank-1"}
# What each contribution is the difference of.
CONTRIBUTIONS = {
    "size alone": ("wider baseline", "global baseline"),
    "parts, of what size leaves": ("+ parts", "wider baseline"),
    "parts, without attention": ("+ parts", "global baseline"),
    "parts, with attention": ("full MFG-Net", "+ attention"),
    "attention, without parts": ("+ attention", "global baseline"),
    "attention, with parts": ("full MFG-Net", "+ parts"),
    "both": ("full MFG-Net", "global baseline"),
    "both, of what size leaves": ("full MFG-Net", "wider baseline"),
}

# Occlusion, row, seed.
Cell = tuple[str, str, int]
# Figures of each seed, by occlusion and row; percent.
Cells = Mapping[tuple[str, str], Sequence[Mapping[str, float]]]


def cell_config(row: str, occlusion: str, seed: int, epochs: int, data_dir: str | None) -> ConfigDict:
    """The demo's configuration, with this row's network, on this dataset."""
    config = synthetic.get_config()
    config.seed = seed
    config.data.dataset = f"synthetic_vehicles/{occlusion}"
    config.data.data_dir = data_dir
    config.model.update(ROWS[row])
    config.train.epochs = epochs
    config.train.batch_size = 32
    # The demo's shape of schedule: 11 and 15 of 18 epochs.
    config.optimizer.decay_epochs = (round(epochs * 11 / 18), round(epochs * 15 / 18))
    config.evaluate.untrained = False
    config.evaluate.every_epochs = epochs
    config.train.log_every_steps = 150
    config.checkpoint.keep_latest = 1
    return config


def run_cell(config: ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """Trains and evaluates one cell, unless that is done; its output goes to a file. Percent."""
    results = workdir / "results"
    if not list(results.glob("*.json")):
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            train.train_and_evaluate(config, workdir)
    (result,) = results.glob("*.json")
    summary = json.loads(result.read_text())["summary"]
    return {name: 100 * summary[name] for name in FIGURES}


def take_cores(numbers: multiprocessing.SimpleQueue, jobs: int) -> None:
    """Gives this worker process its share of the cores, before JAX looks how many there are."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[numbers.get() :: jobs])


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds (of the sample); 0 for one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(cells: Cells) -> str:
    """Mean and standard deviation over seeds, as a table in Markdown, percent."""
    occlusions = [occlusion for occlusion in OCCLUSIONS if any(key[0] == occlusion for key in cells)]
    lines = ["| occlusion | network | mAP | mINP | Rank-1 |", "|---|---|---|---|---|"]
    for occlusion in occlusions:
        for row in ROWS:
            runs = cells[occlusion, row]
            figures = [[run[name] for run in runs] for name in FIGURES]
            shown = " | ".join(f"{statistics.mean(values):.1f} ± {spread(values):.1f}" for values in figures)
            lines.append(f"| {occlusion} | {row} | {shown} |")
    lines += [
        "",
        "| mAP points added by | " + " | ".join(occlusions) + " |",
        "|---" * (len(occlusions) + 1) + "|",
    ]
    for name, (more, less) in CONTRIBUTIONS.items():
        shown = " | ".join(_contribution(cells[o, more], cells[o, less]) for o in occlusions)
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines) + "\n"


def _contribution(more: Sequence[Mapping[str, float]], less: Sequence[Mapping[str, float]]) -> str:
    """Mean difference of mAP, and the standard deviation of the two rows' seeds (root mean square) beside it."""
    one, other = [run["mAP"] for run in more], [run["mAP"] for run in less]
    pooled = ((spread(one) ** 2 + spread(other) ** 2) / 2) ** 0.5
    return f"{statistics.mean(one) - statistics.mean(other):+.1f} (seeds {pooled:.1f})"


def plot(cells: Cells, path: pathlib.Path) -> None:
    """Each run a dot and each mean a bar, mAP and mINP."""
    occlusions = [occlusion for occlusion in OCCLUSIONS if any(key[0] == occlusion for key in cells)]
    colours = ("#9aa0a6", "#6b6f76", "#4c78a8", "#f2a33a", "#2f7d4f")
    step = 0.85 / len(ROWS)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axis, name in zip(axes, ("mAP", "mINP"), strict=True):
        for number, (row, colour) in enumerate(zip(ROWS, colours, strict=True)):
            places = [group + (number - (len(ROWS) - 1) / 2) * step for group in range(len(occlusions))]
            values = [[run[name] for run in cells[occlusion, row]] for occlusion in occlusions]
            axis.bar(places, [statistics.mean(v) for v in values], 0.9 * step, color=colour, label=row)
            for place, each in zip(places, values, strict=True):
                axis.plot([place] * len(each), each, "o", color="black", markersize=3, alpha=0.7)
        labels = [f"{'no' if occlusion == 'none' else occlusion} occlusion" for occlusion in occlusions]
        axis.set_xticks(range(len(occlusions)), labels)
        axis.set_ylabel(f"{FIGURES[name]} (%)")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def recorded(path: pathlib.Path, epochs: int) -> dict[Cell, dict[str, float]]:
    """Figures of the cells of so many epochs that an earlier command recorded, in percent."""
    return {
        (run["occlusion"], run["network"], run["seed"]): {name: run[name] for name in FIGURES}
        for run in _read(path)
        if run["epochs"] == epochs
    }


def record(path: pathlib.Path, runs: Mapping[Cell, Mapping[str, float]], epochs: int) -> None:
    """Writes every cell's figures, one a line; those of other numbers of epochs stay."""
    others = [run for run in _read(path) if run["epochs"] != epochs]
    own = [
        {"occlusion": occlusion, "network": row, "seed": seed, "epochs": epochs}
        | {name: round(runs[occlusion, row, seed][name], 3) for name in FIGURES}
        for occlusion, row, seed in sorted(runs)
    ]
    write_text(path, "[\n" + ",\n".join(map(json.dumps, others + own)) + "\n]\n")


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


def page(rows: Cells, epochs: int, seeds: int) -> str:
    """The document around the table, in Markdown."""
    return f"""# What each part adds

![mAP and mINP of five networks by amount of occlusion: bars are means over seeds, dots the seeds](images/ablation.png)

Written by `python -m benchmarks.ablation`, which says what the rows are. Synthetic vehicles,
{epochs} epochs of 4,800 images for every run, seeds 0 to {seeds - 1}, all of which are here;
percent, mean and standard deviation (of the sample) over seeds. Embeddings of 512 numbers in every
row; the wider baseline has as many multiply-adds as three branches, within a tenth. The test's 200
queries and 1,400 gallery images are of vehicles never trained on. Every run's own figures are in
[ablation.json](ablation.json).

{table(rows)}"""


def complete_rows(
    runs: Mapping[Cell, dict[str, float]], seeds: int
) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Figures by occlusion and row, of those occlusions of which every row has all seeds."""
    return {
        (occlusion, row): [runs[occlusion, row, seed] for seed in range(seeds)]
        for occlusion in OCCLUSIONS
        for row in ROWS
        if all((occlusion, other, seed) in runs for other in ROWS for seed in range(seeds))
    }


def main() -> None:
    """Runs every cell, and writes the table and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12, help="of 4,800 images, for every cell")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this number less one")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--occlusions", nargs="+", choices=OCCLUSIONS, default=OCCLUSIONS)
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/ablation"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs"))
    arguments = parser.parse_args()
    started = time.monotonic()
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    runs = recorded(arguments.out / "ablation.json", arguments.epochs)
    plan = [
        (occlusion, row, seed)
        for occlusion in reversed(OCCLUSIONS)
        if occlusion in arguments.occlusions
        for seed in range(arguments.seeds)
        for row in ROWS
        if (occlusion, row, seed) not in runs
    ]
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(arguments.jobs):
        numbers.put(number)
    with ProcessPoolExecutor(
        arguments.jobs, mp_context=context, initializer=take_cores, initargs=(numbers, arguments.jobs)
    ) as pool:
        cells = {}
        for occlusion, row, seed in plan:
            name = f"{occlusion}_{row.replace('+ ', '').replace(' ', '_').lower()}_seed{seed}"
            config = cell_config(row, occlusion, seed, arguments.epochs, arguments.data_dir)
            cells[pool.submit(run_cell, config, arguments.workdir / name)] = (occlusion, row, seed)
        for number, cell in enumerate(as_completed(cells), start=1):
            occlusion, row, seed = cells[cell]
            figures = runs[occlusion, row, seed] = cell.result()
            record(arguments.out / "ablation.json", runs, arguments.epochs)
            print(
                f"{number}/{len(plan)} {occlusion} occlusion, {row}, seed {seed}: "
                + ", ".join(f"{label} {figures[key]:.1f}" for key, label in FIGURES.items())
                + f" ({duration(time.monotonic() - started)})",
                flush=True,
            )
    rows = complete_rows(runs, arguments.seeds)
    (arguments.out / "ablation.md").write_text(page(rows, arguments.epochs, arguments.seeds))
    plot(rows, arguments.out / "images" / "ablation.png")
    print(table(rows))


if __name__ == "__main__":
    main()
