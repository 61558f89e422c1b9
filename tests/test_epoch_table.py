"""The table of epochs: means over steps, whatever lines reported them; aligned; the same after a resume."""

import numpy as np
import pytest

from mfg_jax import epoch_table, metric_writer
from mfg_jax.run_plan import RunPlan

BATCH = 8
PER_EPOCH = 10
METRICS = ("loss", "identity_loss", "metric_loss", "accuracy")


def _steps(total: int) -> dict[str, np.ndarray]:
    """Metrics of each single step, and the seconds it took."""
    rng = np.random.default_rng(0)
    return {name: rng.random(total) for name in (*METRICS, "seconds")}


def _lines(steps: dict[str, np.ndarray], log_every: int, evaluate_every: int = 2 * PER_EPOCH) -> list[dict]:
    """What a run writes of these steps."""
    total = len(steps["loss"])
    plan = RunPlan(PER_EPOCH, total, log_every, PER_EPOCH, evaluate_every)
    lines, first = [], 0
    for step in range(1, total + 1):
        if plan.reports(step):
            since = slice(first, step)
            means = {name: steps[name][since].mean() for name in METRICS}
            rate = BATCH * (step - first) / steps["seconds"][since].sum()
            lines.append(
                {"step": step, **means, "learning_rate": 1 / step, "epoch": step / PER_EPOCH}
                | {"images_per_second": rate}
            )
            first = step
        if plan.evaluates(step):
            figures = {"mAP": step / 100, "mINP": step / 200, "CMC@1": step / 50}
            lines.append({"step": step, **{f"evaluation/{name}": value for name, value in figures.items()}})
    return lines


@pytest.mark.parametrize("log_every", [1, 3, 7, 10, 1000])
def test_an_epoch_is_the_mean_of_its_steps_however_often_they_were_reported(log_every):
    steps = _steps(34)  # the last epoch is cut short
    rows = epoch_table.summarise_epochs(_lines(steps, log_every), BATCH)
    assert [(row.epoch, row.step) for row in rows] == [(1, 10), (2, 20), (3, 30), (4, 34)]
    for row in rows:
        own = slice((row.epoch - 1) * PER_EPOCH, row.step)
        for name in METRICS:
            assert getattr(row, name) == pytest.approx(steps[name][own].mean())
        assert row.seconds == pytest.approx(steps["seconds"][own].sum())
        images = BATCH * len(steps["seconds"][own])
        assert row.images_per_second == pytest.approx(images / steps["seconds"][own].sum())
        assert row.learning_rate == 1 / row.step
        assert row.mean_ap == (row.step / 100 if row.step in (20, 34) else None)


def test_what_is_not_known_is_left_open_and_what_was_lost_does_not_weigh():
    lines = _lines(_steps(30), 3)
    for line in lines:
        line.pop("metric_loss", None)
    lines[0]["accuracy"] = None  # was not finite
    rows = epoch_table.summarise_epochs([{"step": 0, "evaluation/mAP": 0.01}, *lines], BATCH)
    assert [row.epoch for row in rows] == [0, 1, 2, 3]
    assert (rows[0].mean_ap, rows[0].loss, rows[0].cmc1) == (0.01, None, None)
    assert [row.metric_loss for row in rows] == [None] * 4
    assert [row.accuracy is None for row in rows] == [True, True, False, False]
    # Without the lines of the first epochs the last one is what it was.
    kept = [line for line in lines if line["step"] > 20]
    assert epoch_table.summarise_epochs(kept, BATCH) == rows[3:]
    assert epoch_table.summarise_epochs([], BATCH) == []


def test_rows_stand_below_their_headings_and_can_be_read_back():
    lines = [{"step": 0, "evaluation/mAP": 1.0, "evaluation/mINP": 0.5, "evaluation/CMC@1": 1.0}]
    rows = epoch_table.summarise_epochs(lines + _lines(_steps(40), 7), BATCH)
    header = epoch_table.format_header()
    table = epoch_table.format_table(rows).splitlines()
    assert table[0] == header
    assert table[2 : 2 + len(rows)] == [epoch_table.format_row(row) for row in rows]
    ends = [place + 1 for place in range(len(header)) if header[place : place + 2].strip() == header[place]]
    for row, text in zip(rows, table[2:], strict=False):
        assert len(text) == len(header)
        assert all(text[end - 1] != " " and text[end : end + 1] in (" ", "") for end in ends)
        cells = [None if cell == "-" else float(cell) for cell in text.split()]
        assert cells[:2] == [row.epoch, row.step]
        assert cells[3] == (None if row.loss is None else pytest.approx(row.loss, abs=1e-4))
        assert cells[9] == (None if row.mean_ap is None else pytest.approx(100 * row.mean_ap, abs=0.1))


def test_a_resumed_run_has_the_table_of_one_that_was_not_stopped(tmp_path):
    lines = _lines(_steps(40), 3)

    def write(folder, part, first_step=0):
        folder.mkdir(exist_ok=True)
        with metric_writer.MetricWriter(folder, first_step=first_step) as writer:
            for line in part:
                writer.write(line["step"], {name: value for name, value in line.items() if name != "step"})
        read = metric_writer.read_metrics(folder)
        return epoch_table.format_table(epoch_table.summarise_epochs(read, BATCH))

    whole = write(tmp_path / "whole", lines)
    # Stopped at step 29, after its last checkpoint, that of step 20.
    stopped = write(tmp_path / "stopped", [line for line in lines if line["step"] < 29])
    assert stopped != whole
    assert write(tmp_path / "stopped", [line for line in lines if line["step"] > 20], first_step=20) == whole
