"""Command: one HTML page that shows what a run's network retrieves, and pictures of it for papers.

    python -m mfg_jax.retrieval.report --workdir=runs/vric [--step=N] [--out=FILE]

The page opens from disk and loads nothing. Docs: docs/report.md.
"""

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from mfg_jax.errors import UserError
from mfg_jax.retrieval import report_figures, report_page
from mfg_jax.retrieval.report_data import Line, Report, gather, picture_pixels
from mfg_jax.retrieval.report_selection import VIEWS
from mfg_jax.retrieval.results import write_text
from tfds_builders.errors import DatasetError

_FIGURE_LINES = 8
_VIEW_TITLES = {
    "hardest": "the hardest queries",
    "best": "the best queries",
    "random": "queries chosen at random",
}


def write_figures(report: Report, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes ranked lists and curves for papers, each as PNG and PDF.

    Args:
        report: What was gathered.
        folder: Where to.

    Returns:
        The files.
    """
    training = [line for line in report.metrics if line.get("loss") is not None]
    evaluations = [line for line in report.metrics if line.get("evaluation/mAP") is not None]
    written = []
    for suffix in (".png", ".pdf"):
        for view in VIEWS:
            path = folder / f"ranked_lists_{report.name}_{view}{suffix}"
            _draw_lists(report, view, path)
            written.append(path)
        path = folder / f"cmc_{report.name}{suffix}"
        report_figures.cmc_figure(path, {label: result.cmc for label, result in report.results.items()})
        written.append(path)
        if training:
            path = folder / f"curves{suffix}"
            report_figures.curves_figure(
                path,
                [line["step"] for line in training],
                [line["loss"] for line in training],
                [line["learning_rate"] for line in training],
                {
                    metric: (
                        [line["step"] for line in evaluations],
                        [line[f"evaluation/{metric}"] for line in evaluations],
                    )
                    for metric in ("mAP", "mINP", "CMC@1")
                }
                if evaluations
                else None,
            )
            written.append(path)
    return written


def _draw_lists(report: Report, view: str, path: pathlib.Path) -> None:
    members: list[Line] = [line for line in report.lines if view in line.views]
    lines = sorted(members, key=lambda line: line.views[view])[:_FIGURE_LINES]
    length = max(len(line.results) for line in lines)

    def filled(values: Sequence, filling: object) -> list:
        return [*values, *[filling] * (length - len(values))]

    cameras = [report.pictures[line.query].camera for line in lines]
    has_cameras = report.pairs is not None
    report_figures.ranked_lists_figure(
        path,
        [picture_pixels(report.pictures[line.query]) for line in lines],
        [filled([picture_pixels(report.pictures[key]) for key in line.results], None) for line in lines],
        [filled(line.correct, False) for line in lines],
        [filled(line.distance, np.inf) for line in lines],
        query_cameras=cameras if has_cameras else None,
        result_cameras=[filled([report.pictures[key].camera for key in line.results], 0) for line in lines]
        if has_cameras
        else None,
        average_precision=[line.average_precision for line in lines],
        title=f"{report.result.protocol}, {next(iter(report.results))}: {_VIEW_TITLES[view]}",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mfg_jax.retrieval.report",
        description="Write one HTML page that shows a run's metrics, curves, ranked lists and heat maps, and pictures "
        "for papers.",
    )
    parser.add_argument(
        "--workdir", required=True, type=pathlib.Path, metavar="DIR", help="of the run: runs/vric"
    )
    parser.add_argument("--step", type=int, help="which evaluation (default: the last)")
    parser.add_argument(
        "--result",
        type=pathlib.Path,
        metavar="FILE",
        help="a result of the run, where a step has several, such as results/vric_flip_step_00068480.json "
        "(default: the one without options)",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FILE", help="of the page (default: DIR/report.html)"
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=200,
        help="how many to show at most, a third each of the hardest, the best and a random choice "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--pixels", type=int, default=128, help="longer side of a picture (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random choice (default: %(default)s)")
    parser.add_argument(
        "--heat-maps",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the network on the pictures shown, for heat maps; needs the checkpoint",
    )
    parser.add_argument(
        "--figures",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write the ranked lists and curves as PNG and PDF, into DIR/pictures",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="of the prepared dataset, if it was moved since the evaluation"
    )
    parser.add_argument("--manual-dir", metavar="DIR", help="of the downloaded release, likewise")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.getLogger("mfg_jax").addHandler(logging.StreamHandler())
    for name, lowest in (("queries", 3), ("pixels", 16), ("seed", 0)):
        if getattr(options, name) < lowest:
            parser.error(f"--{name} is {getattr(options, name)}; it has to be at least {lowest}")
    out = options.out or options.workdir / "report.html"
    try:
        report = gather(
            options.workdir,
            step=options.step,
            result_path=options.result,
            queries=options.queries,
            pixels=options.pixels,
            seed=options.seed,
            data_dir=options.data_dir,
            manual_dir=options.manual_dir,
            with_heat_maps=options.heat_maps,
        )
        page = report_page.render(report)
        try:
            write_text(out, page)
        except OSError as error:
            raise UserError(
                f"The report {out} cannot be written: {error.strerror}. Give another --out."
            ) from error
        if options.heat_maps and report.no_heat_maps is not None:
            print(f"Without heat maps: {report.no_heat_maps}.", file=sys.stderr)
        print(f"Report: {out} ({len(page) / 2**20:.1f} MiB, {len(report.lines):,} queries).")
        if options.figures:
            folder = options.workdir / "pictures"
            print("Drawing the pictures for papers.", file=sys.stderr)
            written = write_figures(report, folder)
            print(f"Pictures: {folder} ({len(written)} files, PNG and PDF).")
    except (UserError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
