"""Training from top to bottom: the loop around `mfg_jax.train_step`."""

import dataclasses
import functools
import logging
import pathlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mfg_jax import (
    checkpoint,
    compilation,
    embedding,
    evaluation,
    parallel,
    run_description,
    weights_file,
)
from mfg_jax import config as configs
from mfg_jax.data import loader, sampling, source
from mfg_jax.errors import UserError
from mfg_jax.interruption import Interrupted, Interruption
from mfg_jax.metric_writer import MetricWriter, read_metrics
from mfg_jax.models import MFGNet
from mfg_jax.models.pretrained import load_pretrained
from mfg_jax.optimizer import make_optimizer, step_decay_schedule
from mfg_jax.progress import ProgressLine, duration
from mfg_jax.train_step import (
    LossWeights,
    Metrics,
    TrainState,
    TrainStep,
    create_train_state,
    make_train_step,
)

logger = logging.getLogger(__name__)

# In a checkpoint's description: metrics of steps before it that no line of metrics has reported yet.
_UNREPORTED = "unreported_metrics"


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What is kept of a step until a line of metrics reports it.

    Attributes:
        step: its number, from 1.
        metrics: of the step, on the device until `fetch`.
        images: where this process's share of the batch is in the training split.
    """

    step: int
    metrics: Mapping[str, Any]
    images: Sequence[int] | np.ndarray


def train_and_evaluate(
    config: ConfigDict, workdir: pathlib.Path, interruption: Interruption | None = None
) -> None:
    """Trains until the configured end, evaluates, and leaves results, pictures and checkpoints in `workdir`.

    A run that was stopped continues from its newest checkpoint, bit for bit as if it had not been.

    Args:
        config: with the fields of `configs/default.py`.
        workdir: of the run; made where missing.
        interruption: entered; where a signal comes, the run is saved and ends. None: signals do what they always do.

    Raises:
        UserError: the configuration cannot be used, the directory holds another run, or a loss is not finite.
        Interrupted: a signal came.
        tfds_builders.errors.DatasetError: the dataset is missing or malformed.
    """
    started = time.monotonic()
    stop = interruption or Interruption()
    stop.leave_at_once(lambda: f"nothing had been trained yet. To go on: {run_description.command()}")
    compilation.keep_on_disk(config.train.compilation_cache)
    mesh = parallel.make_mesh()
    writes = jax.process_index() == 0
    configs.check(config, mesh.size, jax.process_count())
    settings = configs.to_json(config)
    run_description.make_workdir(workdir)
    builder = evaluation.open_dataset(config)
    split = source.open_split(builder, "train")
    test_splits = evaluation.open_splits(builder, config)
    index = sampling.index_identities(split.ids)
    steps_per_epoch, total_steps = count_steps(config, len(split), index.num_identities)
    description = {
        "config": settings,
        "num_identities": index.num_identities,
        "training_images": {"count": len(split), "fingerprint": split.fingerprint()},
    }
    logger.info(
        "%d training images of %d identities; %d steps an epoch, %d in all; %d device(s), %d process(es).",
        *(len(split), index.num_identities, steps_per_epoch, total_steps, mesh.size, jax.process_count()),
    )

    schedule = step_decay_schedule(
        config.optimizer.base_rate,
        steps_per_epoch=steps_per_epoch,
        decay_epochs=config.optimizer.decay_epochs,
        decay_factor=config.optimizer.decay_factor,
        warmup_epochs=config.optimizer.warmup_epochs,
    )
    optimizer = make_optimizer(
        config.optimizer.name,
        schedule,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
    )
    model = MFGNet(
        num_identities=index.num_identities,
        axis_name=parallel.AXIS,
        rematerialise=config.train.rematerialise,
        **config.model,
    )
    try:
        state = create_train_state(
            model,
            optimizer,
            seed=config.seed,
            height=config.data.height,
            width=config.data.width,
            averaged=config.optimizer.ema_decay is not None,
        )
    except ValueError as error:
        raise UserError(f"config.model and config.data do not make a network: {error}") from error
    manager = checkpoint.open_manager(
        workdir / "checkpoints",
        keep_latest=config.checkpoint.keep_latest,
        best_metric=config.checkpoint.best_metric,
        keep_every_steps=config.checkpoint.keep_every_steps,
    )

    def accept(step: int, saved: Mapping[str, Any]) -> None:
        if "pretrained" in saved:  # of the run's first step; the file is not needed again
            description["pretrained"] = saved["pretrained"]
        configs.check_same_run(_without_unreported(saved), description, str(workdir))
        if step > total_steps:
            raise UserError(
                f"{workdir} holds a checkpoint of step {step}, but this configuration ends at step {total_steps}. "
                "Raise config.train.epochs or config.train.max_steps, or give another --workdir."
            )

    def nothing_lost() -> str:
        return f"nothing has been trained since step {first_step}. To go on: {run_description.command()}"

    restored = restore_state(manager, parallel.replicate(state, mesh), accept)
    first_step = restored.step if restored else 0
    if restored is None:
        if config.train.pretrained:
            path = pathlib.Path(config.train.pretrained)
            state, description["pretrained"] = start_from(state, path, workdir, writes)
        state = parallel.replicate(state, mesh)
    else:
        state = restored.state
        if first_step == total_steps:
            logger.info("Training was finished before, at step %d.", first_step)
        else:
            logger.info("Resumed at step %d, in epoch %d.", first_step, first_step // steps_per_epoch + 1)
    stop.leave_at_once(nothing_lost)
    if writes:
        run_description.write(workdir, settings)

    train_step = parallel.map_step(
        with_agreement(
            make_train_step(
                model,
                optimizer,
                seed=config.seed,
                weights=LossWeights(**config.loss),
                augmentation=dict(config.augment),
                average_decay=config.optimizer.ema_decay,
                accumulation_steps=config.train.accumulation_steps,
            )
        ),
        mesh,
        config.parallel.mapping,
    )
    forward = embedding.make_forward(model, mesh, flip=config.evaluate.flip)
    evaluate_state = functools.partial(
        evaluation.evaluate_variables, forward, splits=test_splits, mesh=mesh, config=config, workdir=workdir
    )
    batches = loader.train_batches(
        split,
        index,
        seed=config.seed,
        first_step=first_step,
        last_step=total_steps,
        batch_size=config.train.batch_size,
        images_per_identity=config.train.images_per_identity,
        height=config.data.height,
        width=config.data.width,
        process=jax.process_index(),
        processes=jax.process_count(),
        threads=config.data.threads,
        workers=config.data.workers,
    )

    def place(batch: loader.Batch) -> Mapping[str, jax.Array]:
        inputs = {name: batch[name] for name in ("image", "label")}
        inputs["stop"] = np.full(len(batch["label"]), stop.requested)
        return parallel.place_batch(inputs, mesh, config.parallel.mapping)

    line = ProgressLine(
        first_step=first_step,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.train.batch_size,
        active=writes,
    )
    saves_every = config.checkpoint.every_steps or steps_per_epoch
    pending = list(restored.unreported) if restored else []
    with MetricWriter(workdir, first_step=first_step, active=writes) as writer, manager:

        def is_evaluated(step: int) -> bool:
            return step == total_steps or step % (steps_per_epoch * config.evaluate.every_epochs) == 0

        def evaluate_saved(step: int) -> None:
            """Evaluates the state that was just saved, and adds the figures to the checkpoint."""

            def leave() -> str:
                manager.wait_until_finished()
                writer.flush()
                return (
                    f"the evaluation was given up; step {step} is saved in {checkpoint.step_directory(manager, step)}. "
                    f"To go on: {run_description.command()}"
                )

            stop.leave_at_once(leave)
            figures = evaluation.headline(evaluate_state(state.evaluated, step=step))
            stop.leave_after_step()
            checkpoint.add_metrics(manager, step, figures)
            writer.write(step, {f"evaluation/{name}": value for name, value in figures.items()})

        if first_step == 0 and config.evaluate.untrained:
            logger.info("Evaluating the untrained network.")
            untrained = evaluation.headline(evaluate_state(state.evaluated, step=0))
            writer.write(0, {f"evaluation/{name}": value for name, value in untrained.items()})
        if first_step and is_evaluated(first_step):
            # It was stopped between the save and the end of the evaluation, or of its report.
            figures = checkpoint.read_metrics(manager, first_step)
            if figures is None:
                evaluate_saved(first_step)
            elif not any(
                line["step"] == first_step and "evaluation/mAP" in line for line in read_metrics(workdir)
            ):
                writer.write(first_step, {f"evaluation/{name}": value for name, value in figures.items()})

        stop.leave_at_once(nothing_lost)
        placed = loader.placed_ahead(batches, place)
        upcoming = next(placed, None)
        before: StepRecord | None = None
        profiler = _Profiler(workdir / "profile", config.train.profile_steps, first_step, active=writes)
        line.restart()
        for step in range(first_step + 1, total_steps + 1):
            assert upcoming is not None
            batch, inputs = upcoming
            profiler.before_step(step, state)
            compiled = compilation.count()
            state, metrics = train_step(state, inputs)
            if step == first_step + 1:
                stop.leave_after_step()
                logger.info(
                    "The first step was begun %s after the start.", duration(time.monotonic() - started)
                )
            elif compilation.count() != compiled:
                logger.warning(
                    "The training step was compiled again at step %d: its input changed shape or type.", step
                )
            record = StepRecord(step, metrics, batch["index"])
            pending.append(record)
            # While this step runs, the next batch is put on the device; and no more than one step waits there, so that
            # a run that is stopped need not wait for many.
            upcoming = next(placed, None)
            if before is not None:
                jax.block_until_ready(before.metrics)
            interrupted = _is_interrupted(stop, before)
            before = record
            profiler.after_step(step, state)

            saves = is_evaluated(step) or step % saves_every == 0
            if (
                saves
                or interrupted
                or step % steps_per_epoch == 0
                or step % config.train.log_every_steps == 0
            ):
                pending = fetch(pending)
                # Before anything is saved: a loss that is not finite must not reach a checkpoint.
                check_finite(pending, split.names, manager)
            # An interruption adds no line of its own: the metrics are then the same as if there had been none.
            if saves or step % steps_per_epoch == 0 or step % config.train.log_every_steps == 0:
                scalars = mean_metrics(pending)
                scalars |= {"learning_rate": float(schedule(step - 1)), "epoch": step / steps_per_epoch}
                scalars["images_per_second"] = line.update(step, scalars)
                writer.write(step, scalars)
                pending.clear()
            if saves or interrupted:
                unreported = [
                    {"step": record.step, **{name: float(value) for name, value in record.metrics.items()}}
                    for record in pending
                ]
                checkpoint.save(
                    manager,
                    step,
                    variables=state.evaluated,
                    optimizer=state.unevaluated,
                    description={**description, _UNREPORTED: unreported},
                )
            if interrupted:
                manager.wait_until_finished()
                raise Interrupted(
                    f"Step {step} of {total_steps} is saved in {checkpoint.step_directory(manager, step)}. "
                    f"To go on: {run_description.command()}"
                )
            if is_evaluated(step):
                evaluate_saved(step)
            if saves:
                line.restart()
        stop.leave_at_once(lambda: f"training was finished. To draw its results: {run_description.command()}")
        if (
            first_step == total_steps
            and not (workdir / "results" / f"{evaluation.result_name(config, total_steps)}.json").exists()
        ):
            # Training was finished before, and evaluated otherwise than is asked for now.
            evaluate_state(state.evaluated, step=total_steps)
    if writes:
        print(evaluation.summarise(workdir, config, last_step=total_steps))
        print(f"Results, pictures and checkpoints are in {workdir}. A page of what the network retrieves:")
        print(f"  python -m mfg_jax.retrieval.report --workdir={shlex.quote(str(workdir))}")
        logger.info(
            "Done in %s; peak memory %.2f GiB.",
            duration(time.monotonic() - started),
            run_description.peak_memory_bytes() / 2**30,
        )


def count_steps(config: ConfigDict, images: int, identities: int) -> tuple[int, int]:
    """Steps of an epoch and of the whole run.

    Raises:
        UserError: the training split is too small for one batch.
    """
    per_identity, batch_size = config.train.images_per_identity, config.train.batch_size
    if images < batch_size or identities * per_identity < batch_size:
        raise UserError(
            f"The training split holds {images} images of {identities} identities, too few for a batch of {batch_size} "
            f"with {per_identity} images of each identity. Give a smaller config.train.batch_size."
        )
    steps_per_epoch = images // batch_size
    total = config.train.epochs * steps_per_epoch
    return steps_per_epoch, total if config.train.max_steps is None else min(total, config.train.max_steps)


def start_from(
    state: TrainState, path: pathlib.Path, workdir: pathlib.Path, writes: bool
) -> tuple[TrainState, dict[str, str]]:
    """Puts a file's weights into a fresh state, and writes what became of each tensor to `pretrained.txt`.

    Returns:
        The state, and what the run's description says of the file: its name and fingerprint.

    Raises:
        UserError: the file cannot be read or does not fit the network.
    """
    try:
        weights = weights_file.read(path)
        variables, report = load_pretrained(state.variables, weights.tensors)
    except UserError as error:
        raise UserError(f"config.train.pretrained = {str(path)!r}: {error}") from error
    logger.info("%s", report)
    if writes:
        listing = [f"{path}\nSHA-256 {weights.fingerprint}\n\n{report.listing()}", *weights.notes]
        (workdir / "pretrained.txt").write_text("\n".join(listing))
    average = None if state.average is None else jax.tree.map(jnp.copy, variables)
    state = dataclasses.replace(state, average=average, **variables)
    return state, {"file": path.name, "sha256": weights.fingerprint}


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on from: the step, its state, and the steps before it that were not reported yet."""

    step: int
    state: TrainState
    unreported: Sequence[StepRecord]


def restore_state(
    manager: checkpoint.Manager, state: TrainState, accept: Callable[[int, Mapping[str, Any]], None]
) -> Restored | None:
    """The newest saved state that is whole, placed as `state` is, which gives structure and shapes.

    Args:
        manager: of the checkpoints.
        state: of step 0.
        accept: as in `checkpoint.restore_newest`.
    """
    newest = checkpoint.restore_newest(
        manager, variables=state.evaluated, optimizer=state.unevaluated, accept=accept
    )
    if newest is None:
        return None
    step, evaluated, unevaluated, description = newest
    unreported = [
        StepRecord(
            saved["step"],
            {name: np.float32(value) for name, value in saved.items() if name != "step"},
            images=[],
        )
        for saved in description.get(_UNREPORTED, [])
    ]
    return Restored(step, state.restored(state.step + step, evaluated, unevaluated), unreported)


def _without_unreported(description: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in description.items() if name != _UNREPORTED}


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


def fetch(records: Sequence[StepRecord]) -> list[StepRecord]:
    """The same with their metrics on the host."""
    fetched = jax.device_get([record.metrics for record in records])
    return [
        dataclasses.replace(
            record, metrics={name: value for name, value in metrics.items() if name != "stop"}
        )
        for record, metrics in zip(records, fetched, strict=True)
    ]


def check_finite(records: Sequence[StepRecord], names: Sequence[str], manager: checkpoint.Manager) -> None:
    """Checks the steps that nothing has been saved of yet.

    Args:
        records: from `fetch`.
        names: of all images of the training split.
        manager: of the checkpoints.

    Raises:
        UserError: a loss or gradient is not finite.
    """
    for record in records:
        for name in ("loss", "gradient_norm"):
            if np.isfinite(record.metrics[name]):
                continue
            manager.wait_until_finished()
            last = manager.latest_step()
            good = (
                "no checkpoint had been saved"
                if last is None
                else f"the last good checkpoint is {checkpoint.step_directory(manager, last)}"
            )
            images = ", ".join(str(names[place]) for place in record.images)
            raise UserError(
                f"At step {record.step} the {name.replace('_', ' ')} is {record.metrics[name]}. Training was stopped; "
                f"{good}. A lower config.optimizer.base_rate, a longer config.optimizer.warmup_epochs or "
                "config.optimizer.clip_norm usually helps. Should it come back at the same step, look at its images"
                f"{'' if jax.process_count() == 1 else ' (those of this process)'}: {images}."
            )


def mean_metrics(records: Sequence[StepRecord]) -> dict[str, float]:
    """The mean of each metric over steps from `fetch`."""
    return {name: float(np.mean([record.metrics[name] for record in records])) for name in records[0].metrics}


class _Profiler:
    """Traces some steps, numbered from the first one of this process, which compiles."""

    def __init__(self, directory: pathlib.Path, steps: Sequence[int], first_step: int, *, active: bool):
        self._directory = directory
        self._first: int | None
        self._last: int | None
        self._first, self._last = (
            (first_step + number for number in steps) if steps and active else (None, None)
        )

    def before_step(self, step: int, state: TrainState) -> None:
        """Starts the trace, once what was dispatched before is done."""
        if step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))

    def after_step(self, step: int, state: TrainState) -> None:
        """Ends the trace."""
        if step == self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            logger.info("Steps %d to %d are traced in %s.", self._first, self._last, self._directory)
