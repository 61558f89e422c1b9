"""Line charts as inline SVG, drawn for a web page: text keeps a readable size on a narrow screen."""

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

# In units of the drawing, which is about as many pixels wide on a telephone and up to twice as many on a desk.
_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 18, 12, 48
_MOST_POINTS = 300
_MOST_TIPS = 60
_MOST_DOTS = 20  # more of them run together: they are there for the tooltips, but not seen
# Distinct for the colour-blind too, together with the dashes.
_COLOURS = ("#1f5fa8", "#b34700", "#2b7a2b")
_DASHES = ("", "7 4", "2 3")


@dataclasses.dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        label: Its name.
        x: (N,) ascending.
        y: (N,) not all NaN.
    """

    label: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]


def percent(value: float) -> str:
    """A fraction as a tick of an axis: "40%"."""
    return f"{100 * value:.3g}%"


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_format: Callable[[float], str] = "{:.3g}".format,
    y_range: tuple[float | None, float | None] = (None, None),
    x_range: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> str:
    """Draws lines; those of few points get dots with a tooltip each.

    Args:
        title: Above the chart, and its name for screen readers.
        series: At most three.
        x_label: Below the axis.
        y_format: Makes the ticks' text.
        y_range: Lowest and highest value of the axis; None takes the data's.
        x_range: First and last value of the x axis; None takes the data's.
        logarithmic: Whether the y axis is; values of 0 and below are then left out.

    Returns:
        A `<figure>`. All text is escaped.
    """
    series = [_thinned(one, logarithmic) for one in series]
    drawn = [one for one in series if len(one.x)]
    if not drawn:
        return ""
    x_low, x_high = x_range or (float(min(one.x[0] for one in drawn)), float(max(one.x[-1] for one in drawn)))
    low = min(float(one.y.min()) for one in drawn) if y_range[0] is None else y_range[0]
    high = max(float(one.y.max()) for one in drawn) if y_range[1] is None else y_range[1]
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
        y_ticks = [float(tick) for tick in range(math.floor(low), math.ceil(high) + 1)]
        if len(y_ticks) < 2:
            y_ticks = [math.floor(low), math.floor(low) + 1.0]
        while len(y_ticks) > 7:
            y_ticks = y_ticks[::2]
        low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    else:
        y_ticks = _ticks(low, high)
        low, high = min(low, y_ticks[0]), max(high, y_ticks[-1]) if y_range[1] is None else high

    def across(x: float) -> float:
        return _LEFT + (x - x_low) / max(x_high - x_low, 1e-12) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - low) / max(high - low, 1e-12) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        at = down(tick)
        text = y_format(10**tick if logarithmic else tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{html.escape(text)}</text>')
    for tick in _ticks(x_low, x_high, 5, whole=True):
        if x_low <= tick <= x_high:
            parts.append(
                f'<text x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:,.0f}</text>'
            )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    for number, one in enumerate(drawn):
        colour, dash = _COLOURS[number % 3], _DASHES[number % 3]
        values = np.log10(one.y) if logarithmic else one.y
        places = [(across(x), down(y)) for x, y in zip(one.x, values, strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{points}" stroke="{colour}" stroke-dasharray="{dash}"/>')
        if len(places) <= _MOST_TIPS:
            seen = 2.6 if len(places) <= _MOST_DOTS else 0
            for (x, y), step, value in zip(places, one.x, one.y, strict=True):
                tip = html.escape(f"{one.label}: {y_format(float(value))} at {x_label} {step:,.0f}")
                parts.append(
                    f'<g><title>{tip}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="transparent"/>'
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{seen}" fill="{colour}"/></g>'
                )
    last = "; ".join(
        f"{one.label}: {y_format(float(one.y[-1]))} at {x_label} {one.x[-1]:,.0f}" for one in drawn
    )
    name = html.escape(f"{title}. {last}.", quote=True)
    keys = "".join(
        '<li><svg class="key" viewBox="0 0 28 8" aria-hidden="true"><line x1="0" x2="28" y1="4" y2="4" '
        f'stroke="{_COLOURS[number % 3]}" stroke-dasharray="{_DASHES[number % 3]}"/></svg> '
        f"{html.escape(one.label)}</li>"
        for number, one in enumerate(drawn)
    )
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
        f'<ul class="keys">{keys}</ul></figure>'
    )


def _thinned(series: Series, positive: bool) -> Series:
    """The series without gaps (and without values that have no logarithm), averaged to few enough points."""
    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    kept = np.isfinite(y) & ((y > 0) | (not positive))
    x, y = x[kept], y[kept]
    bins = -(-len(x) // _MOST_POINTS)
    if bins <= 1:
        return Series(series.label, x, y)
    edges = np.arange(0, len(x), bins)
    counts = np.diff(np.append(edges, len(x)))
    label = f"{series.label} (mean of {bins})"
    return Series(label, np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts)


def _ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers that span a range: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)]
