"""One self-contained HTML page from what `report_data` gathered. Every name in it is escaped."""

import base64
import hashlib
import importlib.resources
import json
import string
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from mfg_jax.data.source import NO_CAMERA
from mfg_jax.errors import UserError
from mfg_jax.retrieval.confidence import confidence_intervals
from mfg_jax.retrieval.report_breakdown import CameraPairs, Group
from mfg_jax.retrieval.report_charts import Series, line_chart, percent
from mfg_jax.retrieval.report_data import HEAT_MAP_RESULTS, Picture, Report, data_uri
from mfg_jax.retrieval.results import Result

_MOST_CAMERAS = 24
_WORST_PAIRS = 30
_KIND_LABELS = {
    "before": "energy before the gate",
    "after": "energy after the gate",
    "global": "sources of the global vector",
    "parts": "sources of each part's vector",
}


def render(report: Report) -> str:
    """The page as text."""
    script = _template("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = f"{report.result.protocol}, {next(iter(report.results))}"
    return string.Template(_template("page.html")).substitute(
        title=escape(f"{title}: {report.run}"),
        script_hash=f"sha256-{digest}",
        css=_template("page.css"),
        script=script,
        data=_json(report),
        summary=_summary(report),
        metrics=_metrics(report),
        curves=_curves(report),
        breakdown=_breakdown(report),
        lists=_lists(report),
        about=_about(report),
        footer="Written by <code>python -m mfg_jax.retrieval.report</code>. The page loads nothing from anywhere.",
    )


def _template(name: str) -> str:
    return (importlib.resources.files("mfg_jax.retrieval") / "report_template" / name).read_text(
        encoding="utf-8"
    )


def _json(report: Report) -> str:
    """What the page's script works on, safe inside a script element: no "<" is left in it."""
    keys = {key: f"{key[0]}/{key[1]}" for key in report.pictures}
    values = {
        "counted": report.counted,
        "heat_map_results": HEAT_MAP_RESULTS,
        "layouts": [
            {
                "branch": layout.branch,
                "label": _KIND_LABELS[layout.kind],
                "rows": layout.rows,
                "columns": layout.columns,
                "height": layout.height,
                "width": layout.width,
            }
            for layout in report.layouts
        ],
        "pictures": {keys[key]: _picture(picture) for key, picture in report.pictures.items()},
        "queries": [
            {
                "picture": keys[line.query],
                "average_precision": round(line.average_precision, 4),
                "inverse_negative_penalty": round(line.inverse_negative_penalty, 4),
                "first_hit": line.first_hit,
                "hits": line.hits,
                "views": dict(line.views),
                "results": [
                    {"picture": keys[key], "correct": correct, "distance": round(distance, 4)}
                    for key, correct, distance in zip(line.results, line.correct, line.distance, strict=True)
                ],
            }
            for line in report.lines
        ],
    }
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _picture(picture: Picture) -> dict[str, Any]:
    return {
        "name": picture.name,
        "identity": picture.identity,
        "camera": None if picture.camera == NO_CAMERA else picture.camera,
        "attributes": dict(picture.attributes),
        "source": data_uri(picture.jpeg),
        "width": picture.size[0],
        "height": picture.size[1],
        "maps": None if picture.heat_maps is None else base64.b64encode(picture.heat_maps).decode(),
        "kept": {branch: round(share, 4) for branch, share in picture.kept.items()},
    }


def _summary(report: Report) -> str:
    config = report.result.context.get("config", {})
    dataset = config.get("data", {}).get("dataset", "unknown dataset")
    return (
        f"<p>Vehicle re-identification: the network of step {report.step:,} of the run "
        f"<strong>{escape(report.run)}</strong>, tested on <strong>{escape(str(dataset))}</strong> by the protocol "
        f"<strong>{escape(report.result.protocol)}</strong>.</p>"
    )


def _metrics(report: Report) -> str:
    columns = list(report.results.items())
    own = report.result
    has_plain = any(
        result.plain is None and result.flip == own.flip for _, result in columns if result.context["step"]
    )
    if own.plain is not None and not has_plain:
        columns.insert(1, ("plain", own.plain))
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label, _ in columns)
    cells = [_metric_cells(result) for _, result in columns]
    rows = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(of_result[name] for of_result in cells)}</tr>'
        for name in cells[0]
    )
    notes = [
        "In brackets, the 95 % interval: bootstrap over identities, 2,000 samples. In percent.",
        report.result.describe() + ".",
    ]
    if len(report.result.draws) > 1:
        notes.append("The interval says how the mean over the draws would vary with other vehicles.")
    if report.result.one_hit_a_query:
        notes.append("Every query has exactly one right answer, which makes mINP and mAP one number.")
    notes_html = "".join(f'<p class="small">{escape(note[0].upper() + note[1:])}</p>' for note in notes)
    return (
        '<div class="beside"><div class="scroll" tabindex="0" role="region" aria-label="Table of metrics">'
        f'<table class="metrics"><thead><tr><th scope="col">percent</th>{heads}</tr></thead><tbody>{rows}</tbody>'
        f"</table></div><div>{notes_html}</div></div>"
    )


def _metric_cells(result: Result) -> dict[str, str]:
    """The metrics of a result as table cells; without intervals where there are too few identities for one."""
    try:
        intervals = confidence_intervals(result)
    except UserError:
        values = {f"CMC@{rank}": result.cmc[rank - 1] for rank in (1, 5, 10) if rank <= len(result.cmc)}
        values |= {"mAP": result.mean_ap, "mINP": result.mean_inp}
        return {name: f"<td><strong>{100 * value:.1f}</strong></td>" for name, value in values.items()}
    return {
        name: f'<td><strong>{100 * one.value:.1f}</strong> <span class="interval">[{100 * one.low:.1f}, '
        f"{100 * one.high:.1f}]</span></td>"
        for name, one in intervals.items()
    }


def _curves(report: Report) -> str:
    def ranks(result: Result) -> Series:
        return Series("", np.arange(1, len(result.cmc) + 1, dtype=np.float64), result.cmc)

    compared = list(report.results.items())[:3]
    charts = [
        line_chart(
            "CMC curve",
            [Series(label, ranks(result).x, result.cmc) for label, result in compared],
            x_label="rank k",
            y_format=percent,
            y_range=(0.0, 1.0),
        )
    ]
    training = [line for line in report.metrics if line.get("loss") is not None]
    steps = np.array([line["step"] for line in training], np.float64)

    evaluations = [line for line in report.metrics if line.get("evaluation/mAP") is not None]
    # All three of the training over the same steps, so that a fall of the rate is found in the others.
    span = (0.0, float(max((line["step"] for line in report.metrics), default=1)) or 1.0)

    def column(name: str) -> np.ndarray:
        return np.array([line.get(name, np.nan) for line in training], np.float64)

    if len(training):
        charts.append(
            line_chart(
                "Training loss",
                [Series("loss", steps, column("loss"))],
                x_label="step",
                y_range=(0.0, None),
                x_range=span,
            )
        )
        charts.append(
            line_chart(
                "Learning rate",
                [Series("rate", steps, column("learning_rate"))],
                x_label="step",
                y_format="{:.1g}".format,
                x_range=span,
                logarithmic=True,
            )
        )
    if evaluations:
        at = np.array([line["step"] for line in evaluations], np.float64)
        series = [
            Series(
                name,
                at,
                np.array([line.get(f"evaluation/{name}", np.nan) for line in evaluations], np.float64),
            )
            for name in ("CMC@1", "mAP", "mINP")
        ]
        charts.append(
            line_chart(
                "Accuracy while training",
                series,
                x_label="step",
                y_format=percent,
                y_range=(0.0, None),
                x_range=span,
            )
        )
    missing = ""
    if not training:
        missing = '<p class="small">The run has no metrics.jsonl, so there are no curves of the training.</p>'
    return f'<div class="charts">{"".join(charts)}</div>{missing}'


def _breakdown(report: Report) -> str:
    parts = []
    if len(report.result.draws) > 1:
        parts.append('<p class="small">Of the first draw.</p>')
    if report.result.plain is not None:
        parts.append('<p class="small">Of the plain ranking, without re-ranking and query expansion.</p>')
    tables = "".join(_group_table(heading, groups) for heading, groups in report.groups.items() if groups)
    if tables:
        parts.append(
            '<p class="small">Counted queries alone. In brackets, the 95 % interval of mAP: bootstrap over the '
            f'group\'s identities; groups of few are uncertain.</p><div class="tables">{tables}</div>'
        )
    if report.pairs is not None:
        parts.append(_pairs(report.pairs))
    if not tables and report.pairs is None:
        parts.append("<p>The dataset knows no cameras, colours or types.</p>")
    return "".join(parts)


def _group_table(heading: str, groups: Sequence[Group]) -> str:
    numeric = all(group.name.lstrip("-").isdigit() for group in groups)
    ordered = (
        sorted(groups, key=lambda group: int(group.name))
        if numeric
        else sorted(groups, key=lambda g: g.mean_ap)
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(group.name)}</th><td>{group.queries:,}</td><td>{100 * group.cmc_1:.1f}</td>'
        f"<td>{100 * group.mean_ap:.1f}{_bracket(group)}</td><td>{100 * group.mean_inp:.1f}</td></tr>"
        for group in ordered
    )
    title = heading[0].upper() + heading[1:]
    long, count = (" long", f" ({len(ordered)}, scroll)") if len(ordered) > 15 else ("", "")
    return (
        f"<div><h3>{escape(title)}{count}</h3>"
        f'<div class="scroll{long}" tabindex="0" role="region" aria-label="{escape(title)}">'
        '<table class="small"><thead><tr><th scope="col"></th><th scope="col">queries</th>'
        '<th scope="col">CMC@1</th><th scope="col">mAP</th><th scope="col">mINP</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _bracket(group: Group) -> str:
    if group.interval is None:
        return ""
    return f' <span class="faint">[{100 * group.interval.low:.0f}, {100 * group.interval.high:.0f}]</span>'


def _pairs(pairs: CameraPairs) -> str:
    explained = (
        '<h3>Camera pairs</h3><p class="small">Of the queries of one camera that have a right answer in another, the '
        f"share (percent) with at least one such answer among the first {pairs.within}. A pair can be low because the "
        "places were taken by right answers of other cameras.</p>"
    )
    most = max(len(pairs.query_cameras), len(pairs.gallery_cameras))
    return explained + (_pair_matrix(pairs) if most <= _MOST_CAMERAS else _worst_pairs(pairs))


def _pair_matrix(pairs: CameraPairs) -> str:
    heads = "".join(f'<th scope="col">c{camera}</th>' for camera in pairs.gallery_cameras.tolist())
    rows = []
    for row, camera in enumerate(pairs.query_cameras.tolist()):
        cells = []
        for found, queries in zip(pairs.found[row].tolist(), pairs.queries[row].tolist(), strict=True):
            if not queries:
                cells.append('<td class="faint">–</td>')
                continue
            # Dark is found; the text turns white where the shade would hide it.
            lightness = 96 - 56 * found
            ink = "#fff" if lightness < 62 else "#1b1f24"
            cells.append(
                f'<td style="background:hsl(212 60% {lightness:.0f}%);color:{ink}" title="{queries} '
                f'{"query" if queries == 1 else "queries"}">{100 * found:.0f}</td>'
            )
        rows.append(f'<tr><th scope="row">c{camera}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Camera pairs"><table class="pairs"><thead><tr>'
        f'<th scope="col">query ╲ answer</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _worst_pairs(pairs: CameraPairs) -> str:
    """Too many cameras for a matrix: the pairs that fail the most queries."""
    missed = np.where(pairs.queries > 0, pairs.queries * (1 - np.nan_to_num(pairs.found)), 0)
    order = np.argsort(-missed, axis=None, kind="stable")[:_WORST_PAIRS]
    rows = "".join(
        f"<tr><td>c{pairs.query_cameras[row]} → c{pairs.gallery_cameras[column]}</td><td>{pairs.queries[row, column]:,}"
        f"</td><td>{missed[row, column]:,.0f}</td><td>{100 * pairs.found[row, column]:.0f}</td></tr>"
        for row, column in zip(*np.unravel_index(order, missed.shape), strict=True)
        if missed[row, column] > 0
    )
    return (
        f'<p class="small">There are {len(pairs.query_cameras)} x {len(pairs.gallery_cameras)} pairs; these '
        f"fail the most queries.</p>"
        '<table class="small"><thead><tr><th scope="col">query → answer</th><th scope="col">queries</th>'
        f'<th scope="col">not found</th><th scope="col">found, %</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _lists(report: Report) -> str:
    everything = all(len(line.views) == 3 for line in report.lines)
    shown = (
        f"All {report.counted:,} counted queries are here."
        if everything
        else f"{len(report.lines):,} of {report.counted:,} counted queries are here: the hardest, the best and a "
        "random choice, each picked from all of them (--queries sets how many)."
    )
    text = [
        "One line is one query and the gallery images nearest to it, without those the protocol leaves out. "
        "<span class='right'><span class='mark'>✓</span></span> and a full green border: the same vehicle; "
        "<span class='wrong'><span class='mark'>✗</span></span> and a dashed red border: another. Below each, its "
        "Euclidean distance and camera. Click a picture for a larger view"
        + (" with heat maps." if report.layouts else "."),
        shown,
    ]
    if len(report.result.draws) > 1:
        text.append("The lists are of the first draw.")
    if report.result.plain is not None:
        text.append("The lists, AP and INP are of the plain ranking, without re-ranking and query expansion.")
    return "".join(f"<p>{paragraph}</p>" for paragraph in text)


def _about(report: Report) -> str:
    context = report.result.context
    versions = ", ".join(f"{name} {version}" for name, version in context.get("versions", {}).items())
    facts = {
        "Evaluated by": context.get("command", "unknown"),
        "Versions": versions,
        "Network": ", ".join(
            f"{name} {value}" for name, value in context.get("config", {}).get("model", {}).items()
        ),
    }
    rows = "".join(
        f"<dt>{name}</dt><dd><code>{escape(str(value))}</code></dd>" for name, value in facts.items() if value
    )
    return _heat_map_notes(report) + f'<h3>The run</h3><dl class="facts">{rows}</dl>'


def _heat_map_notes(report: Report) -> str:
    if report.no_heat_maps is not None:
        return f"<h3>Heat maps</h3><p>There are none: {escape(report.no_heat_maps)}.</p>"
    kinds = {layout.kind for layout in report.layouts}
    items = {
        "before": "<strong>Energy before the gate</strong>: at each place of the branch's feature map, the length of "
        "the vector of its channels.",
        "after": "<strong>Energy after the gate</strong>: the same after squeeze-and-excitation, on the same scale; "
        "the heading says which share of the squared energy is kept. The gate weighs <em>channels</em>, each by one "
        "number for the whole image; it has no map of its own and cannot look at a place. A place dims when the "
        "channels that are strong there are weighed down."
        if "before" in kinds
        else "<strong>Energy</strong>: at each place of the branch's feature map, the length of the vector of its "
        "channels. No gate stands at the end of this network's branches.",
        "global": "<strong>Sources of the global vector</strong>: pooling makes one vector of the map; this is the "
        "share of its squared length that each place gives. With max pooling, a channel counts at its maximum's place.",
        "parts": "<strong>Sources of each part's vector</strong>: the same for each part (stripe) on its own. White "
        "lines are the cuts; nothing crosses them, though a place of the map has itself seen beyond its part.",
    }
    listed = "".join(f"<li>{text}</li>" for kind, text in items.items() if kind in kinds)
    return (
        "<h3>Heat maps</h3><p>In the larger view, over each query and its first "
        f"{HEAT_MAP_RESULTS} results, branch by branch. Dark is little, bright is much: "
        '<canvas class="scale" id="scale" width="256" height="1" role="img" aria-label="Colour scale from dark, '
        'little, to bright, much"></canvas> Each map has its own scale (before and after the gate share one), so '
        f"compare "
        f'places within a map, not brightness between images.</p><ul class="prose">{listed}</ul><p>They say where the '
        "pooled vectors come from, before the heads reduce them. They do not say what decided a distance.</p>"
    )
