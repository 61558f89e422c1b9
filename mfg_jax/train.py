"""Training from top to bottom: makes what the configuration asks for, and gives it to the loop of `train_loop.py`."""

import dataclasses
import logging
import pathlib
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mfg_jax import (
    checkpoint,
    compilation,
    embedding,
    epoch_table,
    evaluation,
    parallel,
    run_description,
    train_loop,
)
from mfg_jax import config as configs
from mfg_jax.data import loader, sampling, source
from mfg_jax.errors import UserError
from mfg_jax.interruption import Interruption
from mfg_jax.metric_writer import MetricWriter
from mfg_jax.models import MFGNet
from mfg_jax.optimizer import make_optimizer, step_decay_schedule
from mfg_jax.progress import ProgressLine, duration
from mfg_jax.run_plan import RunPlan
from mfg_jax.step_profiler import StepProfiler
from mfg_jax.train_start import Training, resume_or_start
from mfg_jax.train_step import (
    LossWeights,
    TrainState,
    TrainStep,
    create_train_state,
    make_train_step,
)

logger = logging.getLogger(__name__)


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
    configs.check(config, mesh.size, jax.process_count())
    run_description.make_workdir(workdir)
    data = open_data(config)
    plan = make_plan(config, len(data.train), data.index.num_identities)
    logger.info(
        "%d training images of %d identities; %d steps an epoch, %d in all; %d device(s), %d process(es).",
        *(len(data.train), data.index.num_identities, plan.steps_per_epoch, plan.total_steps),
        *(mesh.size, jax.process_count()),
    )

    schedule = make_schedule(config, plan.steps_per_epoch)
    optimizer = optimizer_of(config, schedule)
    model = MFGNet(
        num_identities=data.index.num_identities,
        axis_name=parallel.AXIS,
        rematerialise=config.train.rematerialise,
        **config.model,
    )
    training = Training(0, initial_state(config, model, optimizer), [], describe(config, data))
    manager = checkpoint.open_manager(
        workdir / "checkpoints",
        keep_latest=config.checkpoint.keep_latest,
        best_metric=config.checkpoint.best_metric,
        keep_every_steps=config.checkpoint.keep_every_steps,
    )
    training = resume_or_start(
        training, manager, plan, mesh, workdir=workdir, pretrained=config.train.pretrained
    )
    first_step = training.step

    def nothing_lost() -> str:
        return f"nothing has been trained since step {first_step}. To go on: {run_description.command()}"

    stop.leave_at_once(nothing_lost)
    writes = jax.process_index() == 0
    if writes:
        run_description.write(workdir, configs.to_json(config))

    train_step = mapped_train_step(config, model, optimizer, mesh)
    evaluate = evaluation_of(config, model, data, mesh, workdir)
    batches = make_batches(config, data, first_step, plan.total_steps)
    line = ProgressLine(
        first_step=first_step,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=config.train.batch_size,
        active=writes,
    )
    with MetricWriter(workdir, first_step=first_step, active=writes) as writer, manager, line:
        outputs = train_loop.Outputs(
            workdir,
            manager,
            writer,
            line,
            picture=lambda step: evaluation.picture_path(workdir, config, step),
            batch_size=config.train.batch_size,
            active=writes,
        )
        if first_step == 0 and config.evaluate.untrained:
            logger.info("Evaluating the untrained network.")
            figures = evaluate(training.state.evaluated, 0)
            train_loop.report_evaluation(0, figures, outputs.picture(0), writer)
        if first_step and plan.evaluates(first_step):
            train_loop.finish_evaluation(training, evaluate, outputs, stop)
        train_loop.write_epochs(outputs)  # lines after the step resumed from have been cut off

        stop.leave_at_once(nothing_lost)
        train_loop.train_steps(
            training,
            train_step,
            loader.placed_ahead(batches, lambda batch: place(batch, mesh, config.parallel.mapping, stop)),
            plan,
            outputs,
            stop,
            evaluate=evaluate,
            schedule=schedule,
            names=data.train.names,
            profiler=StepProfiler(workdir / "profile", config.train.profile_steps, first_step, active=writes),
            started=started,
        )
        stop.leave_at_once(lambda: f"training was finished. To draw its results: {run_description.command()}")
        if (
            first_step == plan.total_steps
            and not evaluation.result_path(workdir, config, plan.total_steps).exists()
        ):
            # Training was finished before, and evaluated otherwise than is asked for now.
            evaluate(training.state.evaluated, plan.total_steps)
        epochs = train_loop.write_epochs(outputs)
    if writes:
        print(f"{epoch_table.format_table(epochs)}\n")
        print(evaluation.summarise(workdir, config, last_step=plan.total_steps))
        print(f"Results, pictures and checkpoints are in {workdir}; its README.txt says what is what.")
        print("A page of what the network retrieves:")
        print(f"  python -m mfg_jax.retrieval.report --workdir={shlex.quote(str(workdir))}")
        logger.info(
            "Done in %s; peak memory %.2f GiB.",
            duration(time.monotonic() - started),
            run_description.peak_memory_bytes() / 2**30,
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained and tested on.

    Attributes:
        train: the training split.
        index: its identities.
        test: the splits of the protocol, by name.
    """

    train: source.Split
    index: sampling.IdentityIndex
    test: Mapping[str, source.Split]


def open_data(config: ConfigDict) -> Data:
    """Opens the configured dataset, building it on first use."""
    builder = evaluation.open_dataset(config)
    train = source.open_split(builder, "train")
    test = evaluation.open_splits(builder, config)
    return Data(train, sampling.index_identities(train.ids), test)


def describe(config: ConfigDict, data: Data) -> dict[str, Any]:
    """What is saved with each checkpoint, to build the network again and to tell one run from another."""
    return {
        "config": configs.to_json(config),
        "num_identities": data.index.num_identities,
        "training_images": {"count": len(data.train), "fingerprint": data.train.fingerprint()},
    }


def make_plan(config: ConfigDict, images: int, identities: int) -> RunPlan:
    """Which steps are reported, saved and evaluated, for a training split of so many images and identities.

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
    return RunPlan(
        steps_per_epoch=steps_per_epoch,
        total_steps=total if config.train.max_steps is None else min(total, config.train.max_steps),
        log_every=config.train.log_every_steps,
        save_every=config.checkpoint.every_steps or steps_per_epoch,
        evaluate_every=steps_per_epoch * config.evaluate.every_epochs,
    )


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate, by steps done before."""
    return step_decay_schedule(
        config.optimizer.base_rate,
        steps_per_epoch=steps_per_epoch,
        decay_epochs=config.optimizer.decay_epochs,
        decay_factor=config.optimizer.decay_factor,
        warmup_epochs=config.optimizer.warmup_epochs,
    )


def optimizer_of(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The configured optimizer."""
    return make_optimizer(
        config.optimizer.name,
        schedule,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
    )


def initial_state(config: ConfigDict, model: MFGNet, optimizer: optax.GradientTransformation) -> TrainState:
    """Fresh weights, a function of the seed.

    Raises:
        UserError: the network does not fit the images.
    """
    try:
        return create_train_state(
            model,
            optimizer,
            seed=config.seed,
            height=config.data.height,
            width=config.data.width,
            averaged=config.optimizer.ema_decay is not None,
        )
    except ValueError as error:
        raise UserError(f"config.model and config.data do not make a network: {error}") from error


def mapped_train_step(
    config: ConfigDict, model: MFGNet, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """The training step over all devices, which also lets all processes stop after the same one."""
    step = make_train_step(
        model,
        optimizer,
        seed=config.seed,
        weights=LossWeights(**config.loss),
        augmentation=dict(config.augment),
        average_decay=config.optimizer.ema_decay,
        accumulation_steps=config.train.accumulation_steps,
    )
    return parallel.map_step(train_loop.with_agreement(step), mesh, config.parallel.mapping)


def evaluation_of(
    config: ConfigDict, model: MFGNet, data: Data, mesh: Mesh, workdir: pathlib.Path
) -> train_loop.Evaluate:
    """The evaluation by the configured protocol, which leaves its result and pictures in `workdir`."""
    forward = embedding.make_forward(model, mesh, flip=config.evaluate.flip)

    def evaluate(variables: embedding.Variables, step: int) -> dict[str, float]:
        result = evaluation.evaluate_variables(
            forward, variables, data.test, mesh, config, step=step, workdir=workdir
        )
        return evaluation.headline(result)

    return evaluate


def make_batches(config: ConfigDict, data: Data, first_step: int, last_step: int) -> Iterator[loader.Batch]:
    """This process's share of the batches of the steps that are left."""
    return loader.train_batches(
        data.train,
        data.index,
        seed=config.seed,
        first_step=first_step,
        last_step=last_step,
        batch_size=config.train.batch_size,
        images_per_identity=config.train.images_per_identity,
        height=config.data.height,
        width=config.data.width,
        process=jax.process_index(),
        processes=jax.process_count(),
        threads=config.data.threads,
        workers=config.data.workers,
    )


def place(batch: loader.Batch, mesh: Mesh, mapping: str, stop: Interruption) -> Mapping[str, jax.Array]:
    """Puts a batch on the devices, and with it whether this process was asked to stop."""
    inputs = {name: batch[name] for name in ("image", "label")}
    inputs["stop"] = np.full(len(batch["label"]), stop.requested)
    return parallel.place_batch(inputs, mesh, mapping)
