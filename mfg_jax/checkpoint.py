"""Checkpoints on disk: saving, resuming, and loading without the training code. The only importer of Orbax.

A checkpoint holds three items: `variables` (parameters and batch statistics, or their moving averages where those are
kept), `optimizer` (its state, and beside averages what they are of) and `description` (JSON: the configuration and what
it takes to rebuild the network). Loading for inference reads the first and last.
"""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mfg_jax.errors import UserError

Tree = Any
Manager: TypeAlias = ocp.CheckpointManager

# What Orbax and TensorStore raise for files that are missing or cut short.
_DAMAGE = (AttributeError, KeyError, OSError, TypeError, ValueError)


class _WithoutTheExpected(logging.Filter):
    """Drops Orbax's warnings of what is meant: most saves are not of an evaluated step, and loading only reads."""

    def filter(self, record: logging.LogRecord) -> bool:
        expected = ("tracked_metric", "read_only=True", "directory is read only")
        return not any(text in record.getMessage() for text in expected)


logging.getLogger("absl").addFilter(_WithoutTheExpected())


def open_manager(
    directory: pathlib.Path, *, keep_latest: int, best_metric: str | None, create: bool = True
) -> Manager:
    """Opens a directory of checkpoints, one for each saved step.

    Args:
        directory: where they are; made if `create`.
        keep_latest: how many of the newest to keep.
        best_metric: besides them, the one with the highest value of this metric is kept; None for no such one.
        create: for writing; otherwise nothing on disk is changed.

    Returns:
        Orbax's manager. Saves run in the background: call `wait_until_finished` before leaving.
    """
    policies: list[preservation_policy.PreservationPolicy] = [preservation_policy.LatestN(keep_latest)]
    if best_metric is not None:
        policies.append(
            preservation_policy.BestN(
                get_metric_fn=lambda metrics: metrics[best_metric],
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    options = ocp.CheckpointManagerOptions(
        create=create,
        read_only=not create,
        step_prefix="step",
        step_format_fixed_length=8,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        # The policy decides what is kept; this alone makes Orbax write the metrics, which it needs after a restart.
        best_fn=None if best_metric is None else lambda metrics: metrics[best_metric],
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
    """Saves one step in the background.

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
    """Restores items of a step; a damaged checkpoint becomes a `UserError`."""
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except _DAMAGE as error:
        raise _damaged(manager, step, error) from error


def _damaged(manager: Manager, step: int, error: Exception) -> UserError:
    others = ", ".join(str(other) for other in sorted(manager.all_steps()) if other != step) or "none"
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"The checkpoint of step {step} in {manager.directory} is damaged or incomplete ({reason}). Move its folder "
        f"away to go on from another one; the other steps there: {others}."
    )


def load_variables(directory: pathlib.Path, step: int | None = None) -> tuple[Tree, dict[str, Any], int]:
    """Loads a network for inference onto this process's first device, whatever devices wrote it.

    Args:
        directory: of the checkpoints.
        step: which; None for the newest.

    Returns:
        The variables, the description saved with them, and the step.

    Raises:
        UserError: there is no such checkpoint.
    """
    if not directory.is_dir():
        raise UserError(
            f"There are no checkpoints in {directory}: no such directory. Give the work directory of a run that has "
            "saved at least one checkpoint (it holds a folder named checkpoints)."
        )
    with open_manager(directory, keep_latest=1, best_metric=None, create=False) as manager:
        steps = sorted(manager.all_steps())
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"the checkpoint of step {step}"
            found = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{directory} does not hold {wanted}. Steps found there: {found}.")
        step = steps[-1] if step is None else step
        # The target is built from the checkpoint's own metadata: without one, Orbax would ask for the devices that
        # wrote it.
        device = SingleDeviceSharding(jax.local_devices()[0])
        try:
            metadata = manager.item_metadata(step)["variables"].tree
        except _DAMAGE as error:
            raise _damaged(manager, step, error) from error
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), metadata
        )
        items = _restore_items(
            manager,
            step,
            variables=ocp.args.StandardRestore(target),
            description=ocp.args.JsonRestore(),
        )
        return items["variables"], items["description"], step
