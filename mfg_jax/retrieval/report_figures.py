"""Pictures of a test: ranked lists, CMC curves, and the curves of the training that led there.

All take plain arrays and write PNG, PDF or SVG, by the name's suffix. Matplotlib is used through its object
interface: no window, no global state.
"""

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mfg_jax.errors import UserError

Image = npt.NDArray[np.uint8]

RIGHT = "#1a9641"
WRONG = "#d7191c"
_INK = "#222222"
_FAINT = "#777777"
_DOTS_PER_INCH = 150  # with 12 inches of width: 1,800 pixels, sharp where shown at 900
_COLOURS = ("#1f6fb4", "#d95f02", "#4d9221", "#8e44ad", "#b8860b", "#555555")


def ranked_lists_figure(
    path: str | os.PathLike[str],
    query_images: Sequence[Image],
    result_images: Sequence[Sequence[Image | None]],
    correct: npt.ArrayLike | None,
    distances: npt.ArrayLike,
    *,
    query_cameras: npt.ArrayLike | None = None,
    result_cameras: npt.ArrayLike | None = None,
    average_precision: npt.ArrayLike | None = None,
    title: str | None = None,
) -> None:
    """Writes one line a query: the query, then its ranked results; green border right, red border wrong.

    Args:
        path: Where to; the suffix chooses the format.
        query_images: R images (H, W, 3) uint8 RGB; sizes may differ.
        result_images: R lists of K images in rank order, without what the protocol excludes; None leaves a
            gap.
        correct: (R, K) bool; None where the right answers are not known: borders are grey.
        distances: (R, K) float.
        query_cameras: (R,) int, printed below the query; None prints none.
        result_cameras: (R, K) int.
        average_precision: (R,) float, printed below the query.
        title: One line above.

    Raises:
        UserError: The numbers of images, marks and distances differ, or the format is unknown.
    """
    far = np.asarray(distances, float)
    right = np.zeros_like(far, bool) if correct is None else np.asarray(correct, bool)
    lengths = {len(images) for images in result_images}
    if not right.size or right.shape != far.shape or right.shape != (len(query_images), *lengths):
        raise UserError(
            f"A picture of ranked lists needs as many results as marks and distances for every query: got "
            f"{len(query_images)} queries, lists of {sorted(lengths)} results, marks {right.shape} and "
            f"distances {far.shape}."
        )
    rows, columns = right.shape
    cell, gap, caption = 1.0, 0.28, 0.34  # in units of an image's width
    top = 0.75 if title else 0.4
    tallest = float(np.median([image.shape[0] / image.shape[1] for image in query_images]))
    tall = min(1.5, max(0.6, tallest))
    wide_units = columns + 1 + gap + 0.1
    tall_units = top + rows * (tall + caption) + 0.05
    figure = Figure(figsize=(12, 12 * tall_units / wide_units), dpi=_DOTS_PER_INCH, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, wide_units)
    axes.set_ylim(tall_units, 0)
    axes.set_axis_off()
    if title:
        axes.text(0.05, 0.2, title, fontsize=13, color=_INK, va="center", weight="bold")
    results_from = 0.05 + cell + gap
    axes.text(0.05 + cell / 2, top - 0.14, "query", fontsize=11, color=_INK, ha="center", va="center")
    for column in range(columns):
        centre = results_from + column + cell / 2
        axes.text(centre, top - 0.14, str(column + 1), fontsize=11, color=_INK, ha="center", va="center")
    line = results_from - gap / 2
    axes.plot([line, line], [top - 0.25, tall_units - 0.1], color="#cccccc", linewidth=1)

    for row in range(rows):
        upper = top + row * (tall + caption)
        lines = []
        if average_precision is not None:
            lines.append(f"AP {np.asarray(average_precision, float)[row]:.2f}")
        if query_cameras is not None:
            lines.append(f"c{np.asarray(query_cameras)[row]}")
        _draw_image(axes, query_images[row], 0.05, upper, tall, _INK, 1.2)
        _draw_caption(axes, " · ".join(lines), 0.05, upper + tall, _INK)
        for column in range(columns):
            image = result_images[row][column]
            if image is None:
                continue
            colour, mark = (RIGHT, "✓ ") if right[row, column] else (WRONG, "✗ ")
            if correct is None:
                colour, mark = _FAINT, ""
            left = results_from + column
            text = f"{mark}{far[row, column]:.2f}"
            if result_cameras is not None:
                text += f" · c{np.asarray(result_cameras)[row, column]}"
            _draw_image(axes, image, left, upper, tall, colour, 4.5)
            _draw_caption(axes, text, left, upper + tall, colour)
    _save(figure, path)


def curves_figure(
    path: str | os.PathLike[str],
    steps: npt.ArrayLike,
    losses: npt.ArrayLike,
    learning_rates: npt.ArrayLike | None = None,
    evaluations: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]] | None = None,
    *,
    title: str | None = None,
) -> None:
    """Writes the training loss against steps and, beside it, the accuracy at the evaluations.

    Args:
        path: Where to; the suffix chooses the format.
        steps: (N,) int step numbers, ascending.
        losses: (N,) float.
        learning_rates: (N,) float; sudden changes are marked, a warm-up's gradual ones are not.
        evaluations: By name (mAP, CMC@1, ...) the steps (M,) and fractions (M,). None leaves the right side
            out.
        title: One line above.

    Raises:
        UserError: There is no loss to plot, lengths differ, or the format is unknown.
    """
    at, loss = np.asarray(steps), np.asarray(losses, float)
    rates = None if learning_rates is None else np.asarray(learning_rates, float)
    if not len(at) or len(at) != len(loss) or (rates is not None and len(rates) != len(at)):
        raise UserError(
            f"A loss curve needs one loss (and rate) for each of at least one step; got {len(at)} steps, "
            f"{len(loss)} losses{'' if rates is None else f', {len(rates)} rates'}."
        )
    figure = Figure(figsize=(12, 4.4), dpi=_DOTS_PER_INCH, facecolor="white", layout="constrained")
    panels = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
    if title:
        figure.suptitle(title, fontsize=13, weight="bold", color=_INK)
    axes = panels[0]
    window = max(1, len(loss) // 50)
    smooth = window > 1
    label, alpha = ("as logged", 0.35) if smooth else ("loss", 1.0)
    axes.plot(at, loss, color=_COLOURS[0], alpha=alpha, linewidth=1, label=label)
    if smooth:
        axes.plot(
            at, _running_mean(loss, window), color=_COLOURS[0], linewidth=2.2, label=f"mean of {window}"
        )
    for step, before, after in _rate_changes(at, rates):
        axes.axvline(step, color=_FAINT, linestyle=":", linewidth=1.3)
        axes.annotate(
            f"rate {before:.2g} → {after:.2g}",
            (step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4, -5),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="top",
            fontsize=9,
            color=_FAINT,
        )
    _style(axes, "training step", "training loss")
    # The start of training may tower above all that follows; the scale shows what follows.
    high = np.nanmax(loss[np.isfinite(loss)], initial=0.0)
    axes.set_ylim(bottom=0, top=1.05 * high if high > 0 else 1)
    if smooth:
        axes.legend(loc="lower left", frameon=False, fontsize=10)
    if evaluations:
        axes = panels[1]
        for number, (name, (where, values)) in enumerate(evaluations.items()):
            y = np.asarray(values, float)
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(np.asarray(where), y, "o-", color=colour, linewidth=2, markersize=5, label=name)
            if len(y):
                axes.annotate(
                    f"{100 * y[-1]:.1f}",
                    (np.asarray(where)[-1], y[-1]),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=10,
                    color=colour,
                )
        for step, _, _ in _rate_changes(at, rates):
            axes.axvline(step, color=_FAINT, linestyle=":", linewidth=1.3)
        _style(axes, "training step", "at the evaluations")
        axes.set_xlim(panels[0].get_xlim()[0], panels[0].get_xlim()[1] * 1.06)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="best", frameon=False, fontsize=10)
    _save(figure, path)


def cmc_figure(
    path: str | os.PathLike[str], curves: Mapping[str, npt.ArrayLike], *, title: str | None = None
) -> None:
    """Writes CMC curves: the share of queries with a hit among the first k.

    Args:
        path: Where to; the suffix chooses the format.
        curves: By label, (max_rank,) fractions.
        title: One line above.

    Raises:
        UserError: There is no curve, or the format is unknown.
    """
    if not curves:
        raise UserError("A CMC figure needs at least one curve.")
    figure = Figure(figsize=(7.2, 4.6), dpi=_DOTS_PER_INCH, facecolor="white", layout="constrained")
    axes = figure.subplots()
    lowest = 1.0
    for number, (label, curve) in enumerate(curves.items()):
        values = np.asarray(curve, float)
        lowest = min(lowest, float(values.min()))
        ranks = np.arange(1, len(values) + 1)
        name = f"{label} (CMC@1 {100 * values[0]:.1f}%)"
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(ranks, values, color=colour, linewidth=2, marker="o", markersize=3, label=name)
    _style(axes, "rank k", "queries with a hit among the first k")
    axes.set_ylim(max(0.0, np.floor(10 * lowest) / 10 - 0.05), 1.02)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower right", frameon=False, fontsize=10)
    if title:
        axes.set_title(title, fontsize=12, weight="bold", color=_INK, loc="left")
    _save(figure, path)


def _draw_image(
    axes: Axes, image: Image, left: float, upper: float, tall: float, colour: str, width: float
) -> None:
    """Draws an image, its proportions kept, in the middle of a cell of width 1 and height `tall`, with a
    border.
    """
    pad = 0.045
    scale = min((1 - 2 * pad) / image.shape[1], (tall - 2 * pad) / image.shape[0])
    wide, high = image.shape[1] * scale, image.shape[0] * scale
    x, y = left + (1 - wide) / 2, upper + (tall - high) / 2
    # Large pictures are averaged down, small ones (VRIC's) kept crisp without invented detail.
    axes.imshow(
        image, extent=(x, x + wide, y + high, y), interpolation="antialiased", aspect="auto", zorder=1
    )
    axes.plot(
        [x, x + wide, x + wide, x, x],
        [y, y, y + high, y + high, y],
        color=colour,
        linewidth=width,
        solid_joinstyle="miter",
        solid_capstyle="projecting",
        zorder=2,
    )


def _draw_caption(axes: Axes, text: str, left: float, upper: float, colour: str) -> None:
    axes.text(left + 0.5, upper + 0.1, text, fontsize=9.5, color=colour, ha="center", va="center")


def _style(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=11, color=_INK)
    axes.set_ylabel(y, fontsize=11, color=_INK)
    axes.tick_params(labelsize=10, colors=_INK)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _running_mean(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Mean of the last `window` values at each place (of fewer at the start)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    return (sums[stop] - sums[start]) / (stop - start)


def _rate_changes(
    steps: npt.NDArray[np.int64], rates: npt.NDArray[np.float64] | None
) -> list[tuple[int, float, float]]:
    """Steps at which the learning rate falls to less than 0.7 of itself at once, with both rates."""
    if rates is None:
        return []
    places = np.flatnonzero(rates[1:] < 0.7 * rates[:-1]) + 1
    return [(int(steps[place]), float(rates[place - 1]), float(rates[place])) for place in places]


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure through a temporary name in the same folder, so that no reader meets half of it."""
    target = pathlib.Path(path)
    if target.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"{target}: a picture is written as .png, .pdf or .svg, by its name.")
    FigureCanvasAgg(figure)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".picture-") as folder:
        part = pathlib.Path(folder) / target.name
        # No date inside: the same numbers give the same file.
        date = {".pdf": "CreationDate", ".svg": "Date"}.get(target.suffix.lower())
        figure.savefig(part, metadata={date: None} if date else {})
        os.replace(part, target)
