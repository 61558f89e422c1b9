"""Checkpoints on disk: saving, resuming, and loading without the training code. The only importer of Orbax.

A checkpoint holds three items: `variables` (parameters and batch statistics, or their moving averages where those are
kept), `optimizer` (its state, and beside averages what they are of) and `description` (JSON: the configuration and what
it takes to rebuild the network). Loading for inference reads the first and last.
"""

import json
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mfg_jax import parallel
from mfg_jax.errors import UserError

logger = logging.getLogger(__name__)

Tree = Any
Manager: TypeAlias = ocp.CheckpointManager

_STEP_PREFIX = "step"
# Where Orbax keeps a checkpoint's metrics: a folder, and in it a file, of this name.
_METRICS = "metrics"

# What Orbax and TensorStore raise for files that are missing, cut short or altered: arrays carry checksums.
_DAMAGE = (AttributeError, KeyError, OSError, TypeError, ValueError)


class _WithoutTheExpected(logging.Filter):
    """Drops Orbax's warnings of what is meant: most saves are not of an evaluated step, and loading only reads."""

    def filter(self, record: logging.LogRecord) -> bool:
        expected = (
            "tracked_metric",
            "read_only=True",
            "directory is read only",
            "Metadata file does not exist",  # of an item alone; Orbax keeps it a folder above
        )
        return not any(text in record.getMessage() for text in expected)


logging.getLogger("absl").addFilter(_WithoutTheExpected())


class DamagedCheckpointError(UserError):
    """A checkpoint that cannot be read back."""


def open_manager(
    directory: pathlib.Path,
    *,
    keep_latest: int,
    best_metric: str | None,
    keep_every_steps: int | None = None,
    create: bool = True,
) -> Manager:
    """Opens a directory of checkpoints, one for each saved step.

    Args:
        directory: where they are; made if `create`.
        keep_latest: how many of the newest to keep.
        best_metric: besides them, the one with the highest value of this metric is kept; None for no such one.
        keep_every_steps: besides them, those of steps that are multiples of this are kept for good; None for no such.
        create: for writing: what an earlier process left half written is removed; otherwise nothing on disk is changed.

    Returns:
        Orbax's manager. Saves run in the background: call `wait_until_finished` before leaving.
    """

    def best_of(metrics: Mapping[str, float]) -> float:
        # A file of metrics that is damaged, or was saved when another metric was asked for, is the best of none.
        return metrics.get(str(best_metric), -math.inf)

    if create:
        if jax.process_index() == 0:
            _repair_metrics(directory)
        parallel.all_processes(True)  # wait for it
    policies: list[preservation_policy.PreservationPolicy] = [preservation_policy.LatestN(keep_latest)]
    if keep_every_steps is not None:
        policies.append(preservation_policy.EveryNSteps(keep_every_steps))
    if best_metric is not None:
        policies.append(
            preservation_policy.BestN(
                get_metric_fn=best_of,
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    options = ocp.CheckpointManagerOptions(
        create=create,
        read_only=not create,
        step_prefix=_STEP_PREFIX,
        step_format_fixed_length=8,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        # The policy decides what is kept; this alone makes Orbax write the metrics, which it needs after a restart.
        best_fn=None if best_metric is None else best_of,
        cleanup_tmp_directories=create,
    )
    handlers = {
        "variables": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "description": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers)


def save(
    manager: Manager,
    step: int,
    *,
    variables: Tree,
    optimizer: Tree,
    description: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Saves one step in the background, so that it is there whole or not at all.

    Args:
        manager: from `open_manager`.
        step: optimizer steps done.
        variables: the network's, replicated.
        optimizer: the optimizer's state, replicated.
        description: JSON: `config` and `num_identities` at least.
        metrics: of this step's evaluation, for choosing the best; None where there was none.
    """
    items = ocp.args.Composite(
        variables=ocp.args.StandardSave(variables),
        optimizer=ocp.args.StandardSave(optimizer),
        description=ocp.args.JsonSave(dict(description)),
    )
    manager.save(step, args=items, metrics=None if metrics is None else dict(metrics), force=True)


def add_metrics(manager: Manager, step: int, metrics: Mapping[str, float]) -> None:
    """Adds the figures of its evaluation to a checkpoint that was saved without, so that it can be the best.

    Waits until the save is done.
    """
    manager.wait_until_finished()
    with ocp.Checkpointer(ocp.JsonCheckpointHandler(_METRICS)) as checkpointer:
        checkpointer.save(
            step_directory(manager, step).absolute() / _METRICS,
            args=ocp.args.JsonSave(dict(metrics)),
            force=True,
        )
    manager.reload()


def read_metrics(manager: Manager, step: int) -> dict[str, float] | None:
    """The figures of a saved step's evaluation; None where it was not evaluated."""
    return dict(manager.metrics(step) or {}) or None


def step_directory(manager: Manager, step: int) -> pathlib.Path:
    """The folder of a saved step."""
    return pathlib.Path(manager.directory) / f"{_STEP_PREFIX}_{step:08d}"


def restore_newest(
    manager: Manager,
    *,
    variables: Tree,
    optimizer: Tree,
    accept: Callable[[int, Mapping[str, Any]], None],
) -> tuple[int, Tree, Tree, Mapping[str, Any]] | None:
    """Restores the newest checkpoint that is whole.

    Damaged ones that are newer are named in a warning and renamed, so that their steps can be saved anew; nothing is
    deleted.

    Args:
        manager: from `open_manager`, for writing.
        variables: as in `restore`.
        optimizer: likewise.
        accept: is called with a step and its description before its arrays are read, and raises `UserError` where the
            checkpoint is not one to go on from.

    Returns:
        Step, variables, optimizer state and description; None where nothing was saved yet.

    Raises:
        UserError: there are checkpoints, but none of them is whole; all are left as they are.
    """
    damaged: dict[int, DamagedCheckpointError] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        problem: DamagedCheckpointError | None = None
        try:
            description = read_description(manager, step)
            accept(step, description)
            restored = restore(manager, step, variables=variables, optimizer=optimizer)
        except DamagedCheckpointError as error:
            problem = error
        # A checkpoint that one process cannot read is one to none.
        if parallel.all_processes(problem is None):
            for other in damaged:
                _set_aside(manager, other)
            if damaged:
                parallel.all_processes(True)  # wait until the folders are renamed
                manager.reload()
                logger.warning("Going on from the checkpoint of step %d, which is whole.", step)
            return step, *restored, description
        damaged[step] = problem or _damaged(manager, step, "another process could not read it")
        logger.warning("%s", damaged[step])
    if damaged:
        raise UserError(
            f"None of the checkpoints in {manager.directory} can be read (steps "
            f"{', '.join(map(str, sorted(damaged)))}); they were left as they are. The newest: "
            f"{next(iter(damaged.values()))} Give another --workdir, or move the folder away, to start anew."
        )
    return None


def restore(manager: Manager, step: int, *, variables: Tree, optimizer: Tree) -> tuple[Tree, Tree]:
    """Restores a step for training on, whatever devices wrote it.

    Args:
        manager: from `open_manager`.
        step: which.
        variables: arrays of the same structure, shapes and types, placed where the restored ones are to go.
        optimizer: likewise.

    Returns:
        Variables and optimizer state.
    """

    def abstract(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)

    items = _restore_items(
        manager,
        step,
        variables=ocp.args.StandardRestore(abstract(variables)),
        optimizer=ocp.args.StandardRestore(abstract(optimizer)),
    )
    return items["variables"], items["optimizer"]


def read_description(manager: Manager, step: int) -> dict[str, Any]:
    """The JSON saved with a step."""
    return _restore_items(manager, step, description=ocp.args.JsonRestore())["description"]


def _restore_items(manager: Manager, step: int, **items: ocp.args.CheckpointArgs) -> Mapping[str, Any]:
    """Restores items of a step; a damaged checkpoint becomes a `DamagedCheckpointError`."""
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except _DAMAGE as error:
        raise _damaged(manager, step, error) from error


def _damaged(manager: Manager, step: int, reason: object) -> DamagedCheckpointError:
    reason = " ".join(str(reason).split())[:200]
    return DamagedCheckpointError(
        f"The checkpoint {step_directory(manager, step)} is damaged or incomplete ({reason})."
    )


def _set_aside(manager: Manager, step: int) -> None:
    """Renames a checkpoint to what Orbax takes for none; only the first process does."""
    if jax.process_index() != 0:
        return
    path = step_directory(manager, step)
    number = 1
    while (target := path.with_name(f"damaged_{path.name}{'' if number == 1 else f'_{number}'}")).exists():
        number += 1
    path.rename(target)
    logger.warning("%s is now %s.", path, target.name)


def _repair_metrics(directory: pathlib.Path) -> None:
    """Renames files of metrics that are not JSON: Orbax reads them all when it opens the directory."""
    for path in directory.glob(f"{_STEP_PREFIX}_*/{_METRICS}/{_METRICS}"):
        try:
            json.loads(path.read_text())
        except ValueError:
            logger.warning("%s is damaged; its checkpoint counts as not evaluated.", path)
            path.parent.rename(path.parent.with_name(f"damaged_{_METRICS}"))


def load_variables(directory: pathlib.Path, step: int | None = None) -> tuple[Tree, dict[str, Any], int]:
    """Loads a network for inference onto this process's first device, whatever devices wrote it.

    Args:
        directory: of the checkpoints.
        step: which; None for the newest one that is whole: damaged ones that are newer are named in a warning.

    Returns:
        The variables, the description saved with them, and the step.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    if not directory.is_dir():
        raise UserError(
            f"There are no checkpoints in {directory}: no such directory. Give the work directory of a run that has "
            "saved at least one checkpoint (it holds a folder named checkpoints)."
        )
    with open_manager(directory, keep_latest=1, best_metric=None, create=False) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        found = ", ".join(map(str, reversed(steps))) or "none"
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"the checkpoint of step {step}"
            raise UserError(f"{directory} does not hold {wanted}. Steps found there: {found}.")
        if step is not None:
            try:
                return *_load_variables(manager, step), step
            except DamagedCheckpointError as error:
                raise UserError(f"{error} Steps found in {directory}: {found}.") from error
        for newest in steps:
            try:
                return *_load_variables(manager, newest), newest
            except DamagedCheckpointError as error:
                logger.warning("%s Trying the one before it.", error)
                reason = error
        raise UserError(f"None of the checkpoints in {directory} can be read (steps {found}): {reason}")


def load_state(manager: Manager, step: int) -> dict[str, Tree]:
    """Variables and optimizer state of a saved step, on this process's first device, in plain containers."""
    return {name: _load(manager, step, name)[name] for name in ("variables", "optimizer")}


def _load_variables(manager: Manager, step: int) -> tuple[Tree, dict[str, Any]]:
    items = _load(manager, step, "variables", description=ocp.args.JsonRestore())
    return items["variables"], items["description"]


def _load(manager: Manager, step: int, name: str, **others: ocp.args.CheckpointArgs) -> Mapping[str, Any]:
    """Restores an item of arrays onto one device, and others beside it."""
    # The target is built from the checkpoint's own metadata: without one, Orbax would ask for the devices that
    # wrote it.
    device = SingleDeviceSharding(jax.local_devices()[0])
    try:
        # Of this item alone: the manager would read all items'.
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(step_directory(manager, step) / name).item_metadata.tree
    except _DAMAGE as error:
        raise _damaged(manager, step, error) from error
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), metadata
    )
    return _restore_items(manager, step, **{name: ocp.args.StandardRestore(target)}, **others)
