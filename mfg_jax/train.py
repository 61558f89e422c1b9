"""Training from top to bottom: the loop around `mfg_jax.train_step`."""

import dataclasses
import functools
import logging
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mfg_jax import checkpoint, embedding, evaluation, parallel, run_description, weights_file
from mfg_jax import config as configs
from mfg_jax.data import loader, sampling, source
from mfg_jax.errors import UserError
from mfg_jax.metric_writer import MetricWriter
from mfg_jax.models import MFGNet
from mfg_jax.models.pretrained import load_pretrained
from mfg_jax.optimizer import make_optimizer, step_decay_schedule
from mfg_jax.progress import ProgressLine, duration
from mfg_jax.train_step import LossWeights, Metrics, TrainState, create_train_state, make_train_step

logger = logging.getLogger(__name__)


def train_and_evaluate(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains until the configured end, evaluates, and leaves results, pictures and checkpoints in `workdir`.

    A run that was stopped continues from its newest checkpoint, bit for bit as if it had not been.

    Args:
        config: with the fields of `configs/default.py`.
        workdir: of the run; made where missing.

    Raises:
        UserError: the configuration cannot be used, or the directory holds another run.
        tfds_builders.errors.DatasetError: the dataset is missing or malformed.
    """
    started = time.monotonic()
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
    manager = checkpoint.open_manager(
        workdir / "checkpoints", keep_latest=config.checkpoint.keep_latest, best_metric="mAP"
    )
    first_step = manager.latest_step() or 0
    if first_step:
        saved = checkpoint.read_description(manager, first_step)
        if "pretrained" in saved:  # of the run's first step; the file is not needed again
            description["pretrained"] = saved["pretrained"]
        configs.check_same_run(saved, description, str(workdir))
    if first_step > total_steps:
        raise UserError(
            f"{workdir} holds a checkpoint of step {first_step}, but this configuration ends at step {total_steps}. "
            "Raise config.train.epochs or config.train.max_steps, or give another --workdir."
        )
    if writes:
        run_description.write(workdir, settings)
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
    model = MFGNet(num_identities=index.num_identities, axis_name=parallel.AXIS, **config.model)
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
    if config.train.pretrained and not first_step:
        state, description["pretrained"] = start_from(
            state, pathlib.Path(config.train.pretrained), workdir, writes
        )
    state = parallel.replicate(state, mesh)
    if first_step:
        state = restore_state(manager, first_step, state)
        if first_step == total_steps:
            logger.info("Training was finished before, at step %d.", first_step)
        else:
            logger.info("Resumed at step %d, in epoch %d.", first_step, first_step // steps_per_epoch + 1)

    train_step = parallel.map_step(
        make_train_step(
            model,
            optimizer,
            seed=config.seed,
            weights=LossWeights(**config.loss),
            augmentation=dict(config.augment),
            average_decay=config.optimizer.ema_decay,
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
        return parallel.place_batch(inputs, mesh, config.parallel.mapping)

    line = ProgressLine(
        first_step=first_step,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.train.batch_size,
        active=writes,
    )
    pending: list[Metrics] = []
    with MetricWriter(workdir, first_step=first_step, active=writes) as writer, manager:
        if first_step == 0 and config.evaluate.untrained:
            logger.info("Evaluating the untrained network.")
            untrained = evaluation.headline(evaluate_state(state.evaluated, step=0))
            writer.write(0, {f"evaluation/{name}": value for name, value in untrained.items()})
        line.restart()
        for step, (_, inputs) in enumerate(loader.placed_ahead(batches, place), start=first_step + 1):
            state, metrics = train_step(state, inputs)
            pending.append(metrics)
            epoch, steps_into_epoch = divmod(step, steps_per_epoch)
            evaluates = step == total_steps or (
                steps_into_epoch == 0 and epoch % config.evaluate.every_epochs == 0
            )
            saves = evaluates or step % (config.checkpoint.every_steps or steps_per_epoch) == 0
            # Before anything is saved, too: a loss that is not finite must not reach a checkpoint.
            if saves or steps_into_epoch == 0 or step % config.train.log_every_steps == 0:
                scalars = mean_metrics(pending, step)
                scalars |= {"learning_rate": float(schedule(step - 1)), "epoch": step / steps_per_epoch}
                scalars["images_per_second"] = line.update(step, scalars)
                writer.write(step, scalars)
                pending.clear()

            figures: dict[str, float] | None = None
            if evaluates:
                figures = evaluation.headline(evaluate_state(state.evaluated, step=step))
                writer.write(step, {f"evaluation/{name}": value for name, value in figures.items()})
            if saves:
                checkpoint.save(
                    manager,
                    step,
                    variables=state.evaluated,
                    optimizer=state.unevaluated,
                    description=description,
                    metrics=figures,
                )
                line.restart()
        if not (workdir / "results" / f"{evaluation.result_name(config, total_steps)}.json").exists():
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


def restore_state(manager: checkpoint.Manager, step: int, state: TrainState) -> TrainState:
    """The state of a saved step, placed as `state` is, which gives structure and shapes."""
    evaluated, unevaluated = checkpoint.restore(
        manager, step, variables=state.evaluated, optimizer=state.unevaluated
    )
    return state.restored(state.step + step, evaluated, unevaluated)


def mean_metrics(pending: Sequence[Metrics], step: int) -> dict[str, float]:
    """Fetches the metrics of the last steps from the device and averages each.

    Raises:
        UserError: a loss or gradient was not finite; nothing of these steps has been saved yet.
    """
    fetched = jax.device_get(list(pending))
    for done, metrics in enumerate(fetched, start=step - len(fetched) + 1):
        for name in ("loss", "gradient_norm"):
            if not np.isfinite(metrics[name]):
                raise UserError(
                    f"At step {done} the {name.replace('_', ' ')} is {metrics[name]}. Training was stopped; the "
                    "checkpoints before this step are untouched. A lower config.optimizer.base_rate, a longer "
                    "config.optimizer.warmup_epochs or config.optimizer.clip_norm usually helps."
                )
    return {name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]}
