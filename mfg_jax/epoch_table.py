"""The table of a run's epochs. It is made of the lines of `metrics.jsonl` alone, so a resumed run has the same."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MEANS = ("loss", "identity_loss", "metric_loss", "accuracy")

# Heading, width and format of each column, in the order of the fields of `Epoch`. Widths are fixed, so that rows
# written one at a time stand below each other.
_COLUMNS = (
    ("epoch", 5, "d"),
    ("step", 8, "d"),
    ("rate", 8, ".2e"),
    ("loss", 7, ".4f"),
    ("identity", 8, ".4f"),
    ("metric", 7, ".4f"),
    ("accuracy", 8, "%"),
    ("images/s", 8, ".1f"),
    ("seconds", 8, ".1f"),
    ("mAP", 5, "%"),
    ("mINP", 5, "%"),
    ("CMC@1", 5, "%"),
)

_NOTE = """\
rate: the learning rate of the epoch's last step. loss, identity and metric loss, accuracy: means over the epoch's
steps; accuracy is the classifiers' on the augmented training images. seconds: of the steps, without evaluations and
saves. mAP, mINP, CMC@1: of the state after the row's step, where it was evaluated; epoch 0 is the untrained network.
Accuracy, mAP, mINP and CMC@1 are in percent."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A row of the table; None where a figure is not known.

    Attributes:
        epoch: its number, from 1; 0 for the untrained network.
        step: its last step so far.
        learning_rate: of that step.
        loss: mean over its steps.
        identity_loss: likewise.
        metric_loss: likewise.
        accuracy: likewise; a fraction.
        images_per_second: over its steps.
        seconds: that its steps took, without evaluations and saves.
        mean_ap: of the evaluation after `step`; a fraction.
        mean_inp: likewise.
        cmc1: likewise.
    """

    epoch: int
    step: int
    learning_rate: float | None = None
    loss: float | None = None
    identity_loss: float | None = None
    metric_loss: float | None = None
    accuracy: float | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    mean_ap: float | None = None
    mean_inp: float | None = None
    cmc1: float | None = None


def summarise_epochs(lines: Iterable[Mapping[str, Any]], batch_size: int) -> list[Epoch]:
    """One row for each epoch that lines of metrics tell of.

    A line holds means over the steps since the line before it, within one epoch; so it weighs as many steps.

    Args:
        lines: of `metrics.jsonl`, oldest first.
        batch_size: images of a step, over all devices.
    """
    training: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
    evaluations: dict[int, Mapping[str, Any]] = {}
    last = 0
    for line in lines:
        if "evaluation/mAP" in line:
            evaluations[line["step"]] = line
        if "loss" in line:
            number = math.ceil(line["epoch"])
            # Where lines before this one were lost, it still weighs no more than its epoch.
            begin = (number - 1) * round(line["step"] / line["epoch"])
            training.setdefault(number, []).append((line["step"] - max(last, begin), line))
            last = line["step"]
    rows = [Epoch(0, 0, **_figures(evaluations[0]))] if 0 in evaluations else []
    for number, weighted in training.items():
        step = weighted[-1][1]["step"]
        rows.append(
            Epoch(
                number,
                step,
                learning_rate=weighted[-1][1].get("learning_rate"),
                **{name: _mean(weighted, name) for name in _MEANS},
                **_speed(weighted, batch_size),
                **_figures(evaluations.get(step, {})),
            )
        )
    return rows


def _mean(weighted: Sequence[tuple[int, Mapping[str, Any]]], name: str) -> float | None:
    values = [line.get(name) for _, line in weighted]
    if any(value is None for value in values):
        return None
    return sum(count * line[name] for count, line in weighted) / sum(count for count, _ in weighted)


def _speed(weighted: Sequence[tuple[int, Mapping[str, Any]]], batch_size: int) -> dict[str, float]:
    if any(not line.get("images_per_second") for _, line in weighted):
        return {}
    seconds = sum(count * batch_size / line["images_per_second"] for count, line in weighted)
    images = batch_size * sum(count for count, _ in weighted)
    return {"images_per_second": images / seconds, "seconds": seconds}


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    names = {"mean_ap": "mAP", "mean_inp": "mINP", "cmc1": "CMC@1"}
    return {field: evaluation.get(f"evaluation/{name}") for field, name in names.items()}


def format_header() -> str:
    """The line above the rows."""
    return " ".join(f"{heading:>{width}}" for heading, width, _ in _COLUMNS)


def format_row(row: Epoch) -> str:
    """A row as text, as wide as the header; fractions in percent."""
    cells = []
    for value, (_, width, form) in zip(dataclasses.astuple(row), _COLUMNS, strict=True):
        if value is None:
            text = "-"
        elif form == "%":
            text = f"{100 * value:.1f}"
        else:
            text = f"{value:{form}}"
        cells.append(f"{text:>{width}}")
    return " ".join(cells)


def format_table(rows: Sequence[Epoch]) -> str:
    """The whole table with its header, and a note that says what the columns are."""
    header = format_header()
    return "\n".join([header, "-" * len(header), *map(format_row, rows), "", _NOTE])
