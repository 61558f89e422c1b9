"""What a run begins with: its newest checkpoint, weights from a file, or fresh ones."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mfg_jax import checkpoint, parallel, weights_file
from mfg_jax import config as configs
from mfg_jax.errors import UserError
from mfg_jax.models.pretrained import load_pretrained
from mfg_jax.run_plan import RunPlan
from mfg_jax.step_records import StepRecord, read_unreported, without_unreported
from mfg_jax.train_step import TrainState

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Training:
    """All that a run carries from step to step. Nothing else holds the state: a step consumes what it is given.

    Attributes:
        step: optimizer steps done.
        state: after that step.
        unreported: steps that no line of metrics has reported yet.
        description: what is saved with each checkpoint, to build the network again and to tell one run from another.
    """

    step: int
    state: TrainState
    unreported: list[StepRecord]
    description: Mapping[str, Any]


def resume_or_start(
    fresh: Training,
    manager: checkpoint.Manager,
    plan: RunPlan,
    mesh: Mesh,
    *,
    workdir: pathlib.Path,
    pretrained: str | None,
) -> Training:
    """Goes on from the newest checkpoint that is whole; where nothing was saved yet, begins at step 0.

    Args:
        fresh: at step 0, its state not yet on all devices.
        manager: of the checkpoints.
        plan: of the run.
        mesh: the devices.
        workdir: of the run; process 0 writes what became of pretrained weights there.
        pretrained: file of weights to begin with; None or "" for the fresh ones. Not read where a run is resumed.

    Returns:
        The same with its state on all devices.

    Raises:
        UserError: the directory holds another run or a longer one, its checkpoints are all damaged, or the file of
            weights cannot be used.
    """

    def accept(step: int, saved: Mapping[str, Any]) -> None:
        configs.check_same_run(without_unreported(saved), _begun_as(saved, fresh.description), str(workdir))
        if step > plan.total_steps:
            raise UserError(
                f"{workdir} holds a checkpoint of step {step}, but this configuration ends at step {plan.total_steps}. "
                "Raise config.train.epochs or config.train.max_steps, or give another --workdir."
            )

    restored = restore_state(manager, parallel.replicate(fresh.state, mesh), accept)
    if restored is not None:
        if restored.step == plan.total_steps:
            logger.info("Training was finished before, at step %d.", restored.step)
        else:
            logger.info(
                "Resumed at step %d, in epoch %d.", restored.step, restored.step // plan.steps_per_epoch + 1
            )
        return dataclasses.replace(restored, description=_begun_as(restored.description, fresh.description))
    state, description = fresh.state, dict(fresh.description)
    if pretrained:
        writes = jax.process_index() == 0
        state, description["pretrained"] = start_from(state, pathlib.Path(pretrained), workdir, writes)
    return Training(0, parallel.replicate(state, mesh), [], description)


def _begun_as(saved: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a run that began with the pretrained weights of a saved one; their file is not read again."""
    begun = {"pretrained": saved["pretrained"]} if "pretrained" in saved else {}
    return {**description, **begun}


def restore_state(
    manager: checkpoint.Manager, state: TrainState, accept: Callable[[int, Mapping[str, Any]], None]
) -> Training | None:
    """The newest saved state that is whole, placed as `state` is, which gives structure and shapes.

    Args:
        manager: of the checkpoints.
        state: of step 0.
        accept: as in `checkpoint.restore_newest`.

    Returns:
        With the description as it was saved; None where nothing was saved yet.
    """
    newest = checkpoint.restore_newest(
        manager, variables=state.evaluated, optimizer=state.unevaluated, accept=accept
    )
    if newest is None:
        return None
    step, evaluated, unevaluated, description = newest
    return Training(
        step,
        state.restored(state.step + step, evaluated, unevaluated),
        read_unreported(description),
        without_unreported(description),
    )


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
