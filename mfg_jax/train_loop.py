"""The loop of training steps: what is reported, saved and evaluated after which, and how it ends at a signal."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mfg_jax import checkpoint, compilation, epoch_table, parallel, run_description
from mfg_jax.data.loader import Batch
from mfg_jax.interruption import Interrupted, Interruption
from mfg_jax.metric_writer import MetricWriter, read_metrics
from mfg_jax.progress import ProgressLine, duration
from mfg_jax.retrieval.results import write_text
from mfg_jax.run_plan import RunPlan
from mfg_jax.step_profiler import StepProfiler
from mfg_jax.step_records import StepRecord, check_finite, fetch, mean_metrics, with_unreported
from mfg_jax.train_start import Training
from mfg_jax.train_step import Metrics, TrainState, TrainStep

logger = logging.getLogger(__name__)

# `(variables, step) -> figures`, such as those of `mfg_jax.evaluation.headline`.
Evaluate = Callable[[Any, int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where a run's states and figures go.

    Attributes:
        workdir: of the run.
        manager: of its checkpoints.
        writer: of its metrics.
        line: on the terminal or in the log.
        picture: the picture that the evaluation after a step draws.
        batch_size: images of a step, over all devices.
        active: False on processes that are not to write anything.
    """

    workdir: pathlib.Path
    manager: checkpoint.Manager
    writer: MetricWriter
    line: ProgressLine
    picture: Callable[[int], pathlib.Path]
    batch_size: int
    active: bool


def train_steps(
    training: Training,
    train_step: TrainStep,
    placed: Iterator[tuple[Batch, Mapping[str, jax.Array]]],
    plan: RunPlan,
    outputs: Outputs,
    stop: Interruption,
    *,
    evaluate: Evaluate,
    schedule: Callable[[int], Any],
    names: Sequence[str],
    profiler: StepProfiler,
    started: float,
) -> None:
    """Does the steps that are left.

    Args:
        training: is brought to the last step.
        train_step: mapped over the devices; with `with_agreement`.
        placed: batches of the steps that are left, on the host and on the devices.
        plan: of the run.
        outputs: of the run.
        stop: is asked after each step.
        evaluate: the network.
        schedule: the learning rate, by steps done before.
        names: of all images of the training split.
        profiler: is told of each step.
        started: when the run was, on `time.monotonic`'s clock.

    Raises:
        UserError: a loss or gradient is not finite.
        Interrupted: a signal came.
    """
    first_step = training.step
    upcoming = next(placed, None)
    before: StepRecord | None = None
    outputs.line.restart()
    for step in range(first_step + 1, plan.total_steps + 1):
        assert upcoming is not None
        batch, inputs = upcoming
        profiler.before_step(step, training.state)
        compiled = compilation.count()
        training.state, metrics = train_step(training.state, inputs)
        training.step = step
        if step == first_step + 1:
            stop.leave_after_step()
            outputs.line.restart()  # compiling is no measure of the steps to come
            logger.info("The first step was begun %s after the start.", duration(time.monotonic() - started))
        elif compilation.count() != compiled:
            logger.warning(
                "The training step was compiled again at step %d: its input changed shape or type.", step
            )
        record = StepRecord(step, metrics, batch["index"])
        training.unreported.append(record)
        # While this step runs, the next batch is put on the device; and no more than one step waits there, so that
        # a run that is stopped need not wait for many.
        upcoming = next(placed, None)
        if before is not None:
            jax.block_until_ready(before.metrics)
        interrupted = _is_interrupted(stop, before)
        before = record
        profiler.after_step(step, training.state)

        if plan.reports(step) or interrupted:
            training.unreported = fetch(training.unreported)
            # Before anything is saved: a loss that is not finite must not reach a checkpoint.
            check_finite(training.unreported, names, outputs.manager)
        # An interruption adds no line of its own: the metrics are then the same as if there had been none.
        if plan.reports(step):
            report_steps(training, plan, outputs, learning_rate=float(schedule(step - 1)))
        if plan.saves(step) or interrupted:
            save(training, outputs.manager)
        if interrupted:
            outputs.manager.wait_until_finished()
            raise Interrupted(
                f"Step {step} of {plan.total_steps} is saved in {checkpoint.step_directory(outputs.manager, step)}. "
                f"To go on: {run_description.command()}"
            )
        if plan.evaluates(step):
            evaluate_saved(training, evaluate, outputs, stop)
        if plan.ends_epoch(step):
            report_epoch(outputs)
        if plan.saves(step):
            outputs.line.restart()


def report_steps(training: Training, plan: RunPlan, outputs: Outputs, *, learning_rate: float) -> None:
    """Writes one line of metrics of the steps that none has reported yet, their metrics on the host."""
    scalars = mean_metrics(training.unreported)
    scalars |= {"learning_rate": learning_rate, "epoch": training.step / plan.steps_per_epoch}
    scalars["images_per_second"] = outputs.line.update(training.step, scalars)
    outputs.writer.write(training.step, scalars)
    training.unreported.clear()


def report_epoch(outputs: Outputs) -> None:
    """Writes the table of epochs to `epochs.txt`, and the newest row to the terminal or the log."""
    rows = write_epochs(outputs)
    if rows:
        outputs.line.row(epoch_table.format_header(), epoch_table.format_row(rows[-1]))


def write_epochs(outputs: Outputs) -> list[epoch_table.Epoch]:
    """Writes the table of epochs to `epochs.txt`; returns its rows, none on processes that write nothing."""
    if not outputs.active:
        return []
    rows = epoch_table.summarise_epochs(read_metrics(outputs.workdir), outputs.batch_size)
    write_text(outputs.workdir / "epochs.txt", epoch_table.format_table(rows) + "\n")
    return rows


def save(training: Training, manager: checkpoint.Manager) -> None:
    """Saves the state in the background, and with it the metrics that no line has reported yet, on the host."""
    checkpoint.save(
        manager,
        training.step,
        variables=training.state.evaluated,
        optimizer=training.state.unevaluated,
        description=with_unreported(training.description, training.unreported),
    )


def evaluate_saved(training: Training, evaluate: Evaluate, outputs: Outputs, stop: Interruption) -> None:
    """Evaluates the state that was just saved, and adds the figures to the checkpoint and to the metrics."""
    manager, step = outputs.manager, training.step

    def leave() -> str:
        manager.wait_until_finished()
        outputs.writer.flush()
        return (
            f"the evaluation was given up; step {step} is saved in {checkpoint.step_directory(manager, step)}. "
            f"To go on: {run_description.command()}"
        )

    stop.leave_at_once(leave)
    figures = evaluate(training.state.evaluated, step)
    stop.leave_after_step()
    checkpoint.add_metrics(manager, step, figures)
    report_evaluation(step, figures, outputs.picture(step), outputs.writer)


def report_evaluation(
    step: int, figures: Mapping[str, float], picture: pathlib.Path | None, writer: MetricWriter
) -> None:
    """Writes the figures of an evaluation, and shows its picture in TensorBoard where there is one."""
    if picture is not None:
        writer.write_image(step, "ranked_lists", picture)
    writer.write(step, {f"evaluation/{name}": value for name, value in figures.items()})


def finish_evaluation(training: Training, evaluate: Evaluate, outputs: Outputs, stop: Interruption) -> None:
    """Evaluates the state resumed from, where it was stopped between the save and the end of that, or of its report."""
    figures = checkpoint.read_metrics(outputs.manager, training.step)
    if figures is None:
        evaluate_saved(training, evaluate, outputs, stop)
    elif not any(
        line["step"] == training.step and "evaluation/mAP" in line for line in read_metrics(outputs.workdir)
    ):
        # The evaluation may have had other options, and drawn a picture of another name.
        picture = outputs.picture(training.step)
        report_evaluation(training.step, figures, picture if picture.exists() else None, outputs.writer)


def with_agreement(step: TrainStep) -> TrainStep:
    """Adds to a training step what lets all processes stop after the same one.

    Args:
        step: `(state, batch) -> (state, metrics)`, as each device does it.

    Returns:
        The same of a batch with `stop` `(b,)` bool, true where this process was asked to stop; the metrics' `stop` is
        true in every process if it was in any.
    """

    def agreeing(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        inputs = {name: value for name, value in batch.items() if name != "stop"}
        state, metrics = step(state, inputs)
        stop = jax.lax.pmax(jnp.max(batch["stop"].astype(jnp.int32)), parallel.AXIS)
        return state, {**metrics, "stop": stop}

    return agreeing


def _is_interrupted(stop: Interruption, before: StepRecord | None) -> bool:
    """Whether to stop now. Several processes learn of each other's signals from the step before, which is done."""
    if jax.process_count() == 1:
        return stop.requested
    return before is not None and bool(before.metrics["stop"])
