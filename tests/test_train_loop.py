"""A run that was killed between the save and the report of an evaluation makes up for what is missing, once."""

import io
import pathlib

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax import checkpoint, train_loop
from mfg_jax.interruption import Interruption
from mfg_jax.metric_writer import MetricWriter, read_metrics
from mfg_jax.progress import ProgressLine
from mfg_jax.train_start import Training
from mfg_jax.train_step import TrainState

FIGURES = {"mAP": 0.25, "CMC@1": 0.5}


def _training(step: int) -> Training:
    weights = {"kernel": jnp.ones(3)}
    state = TrainState(jnp.int32(step), weights, {"mean": jnp.zeros(3)}, {"trace": jnp.zeros(3)})
    return Training(step, state, [], {"config": {}})


def _finish(workdir: pathlib.Path, step: int, *, evaluated: bool, draws: bool) -> list[int]:
    """Resumes at a saved step; returns the steps that were evaluated."""
    asked = []

    def picture(step: int) -> pathlib.Path:
        return workdir / f"{step}.png"

    def evaluate(variables: dict, step: int) -> dict[str, float]:
        assert set(variables) == {"params", "batch_stats"}
        asked.append(step)
        if draws:
            cv2.imwrite(str(picture(step)), np.zeros((4, 4, 3), np.uint8))
        return FIGURES

    with (
        checkpoint.open_manager(workdir / "checkpoints", keep_latest=1, best_metric="mAP") as manager,
        MetricWriter(workdir, first_step=step) as writer,
    ):
        training = _training(step)
        if step not in manager.all_steps():
            train_loop.save(training, manager)
            if evaluated:
                checkpoint.add_metrics(manager, step, FIGURES)
        line = ProgressLine(
            first_step=step, total_steps=9, steps_per_epoch=3, batch_size=4, stream=io.StringIO()
        )
        outputs = train_loop.Outputs(workdir, manager, writer, line, picture, batch_size=4, active=True)
        train_loop.finish_evaluation(training, evaluate, outputs, Interruption())
        assert checkpoint.read_metrics(manager, step) == FIGURES
    expected = {"step": step, "evaluation/mAP": 0.25, "evaluation/CMC@1": 0.5}
    assert read_metrics(workdir) == [expected]
    return asked


def _shows_a_picture(workdir: pathlib.Path) -> bool:
    events = b"".join(path.read_bytes() for path in (workdir / "tensorboard").glob("events.*"))
    return b"ranked_lists" in events


@pytest.mark.parametrize(("evaluated", "asked"), [(False, [6]), (True, [])])
def test_an_evaluation_is_made_or_reported_where_it_is_missing(tmp_path, evaluated, asked):
    # Where it was made before, under options that drew a picture of another name, there is none to show.
    assert _finish(tmp_path, 6, evaluated=evaluated, draws=True) == asked
    assert _shows_a_picture(tmp_path) == (not evaluated)
    assert _finish(tmp_path, 6, evaluated=evaluated, draws=True) == []
