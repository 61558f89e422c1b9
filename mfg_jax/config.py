"""Checks of a configuration before anything is built, and its comparison with a checkpoint's."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mfg_jax.errors import UserError
from mfg_jax.parallel import MAPPINGS
from mfg_jax.retrieval.protocols import PROTOCOLS, get_protocol

# Fields that may differ when a run is resumed: they change where and how fast it runs or what is looked at, but not one
# bit of the weights at a given step.
FREE_ON_RESUME = (
    "checkpoint.",
    "data.data_dir",
    "data.manual_dir",
    "data.threads",
    "data.workers",
    "evaluate.",
    "parallel.",
    "train.epochs",
    "train.log_every_steps",
    "train.max_steps",
)

# The protocols of each dataset, by the start of their names.
PROTOCOLS_OF = {
    "synthetic_vehicles": "synthetic",
    "vehicle_csv": "csv",
    "vehicleid": "vehicleid-",
    "veri776": "veri776",
    "veri_wild": "veri-wild-",
    "vric": "vric",
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping, as `("train.epochs", 40)`."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values: what is stored beside results and in checkpoints."""
    return json.loads(config.to_json())


def nearest_field(known: Sequence[str], unknown: str) -> str:
    """The one of the known dotted names that is most like `unknown`; the part after the last dot counts most."""
    leaf = unknown.rpartition(".")[2]

    def likeness(name: str) -> tuple[bool, bool, float]:
        known_leaf = name.rpartition(".")[2]
        return (
            known_leaf == leaf,
            leaf in known_leaf or known_leaf in leaf,
            difflib.SequenceMatcher(None, name, unknown).ratio(),
        )

    return max(known, key=likeness)


def check(config: ConfigDict, devices: int, processes: int) -> None:
    """Checks what the types of the fields cannot.

    Args:
        config: with the fields of `configs/default.py`.
        devices: how many the batches are spread over, all processes together.
        processes: how many run.

    Raises:
        UserError: naming the first field that cannot be used, and values that can.
    """
    for name in ("data.dataset", "evaluate.protocol"):
        group, field = name.split(".")
        if config[group][field] is None:
            raise UserError(
                f"config.{name} is not set. Start from a configuration that names its dataset, such as "
                f"configs/vric.py or configs/synthetic.py, or give --config.{name}=NAME."
            )
    for name, smallest in (
        ("data.height", 8),
        ("data.width", 8),
        ("data.threads", 1),
        ("data.workers", 0),
        ("train.epochs", 1),
        ("train.batch_size", 1),
        ("train.images_per_identity", 2),
        ("train.log_every_steps", 1),
        ("evaluate.batch_size", 1),
        ("evaluate.every_epochs", 1),
        ("checkpoint.keep_latest", 1),
    ):
        group, field = name.split(".")
        if config[group][field] < smallest:
            raise UserError(f"config.{name} is {config[group][field]}; it has to be at least {smallest}.")

    batch_size, per_identity = config.train.batch_size, config.train.images_per_identity
    if batch_size % per_identity or batch_size // per_identity < 2:
        raise UserError(
            f"config.train.batch_size is {batch_size}, which is not two or more identities of "
            f"config.train.images_per_identity = {per_identity} images each. Use a multiple of {per_identity}, such as "
            f"{max(2, round(batch_size / per_identity)) * per_identity}, or another number of images."
        )
    for name, size in (("train.batch_size", batch_size), ("evaluate.batch_size", config.evaluate.batch_size)):
        if size % devices:
            raise UserError(
                f"config.{name} is {size}, which cannot be divided equally among {devices} devices of {processes} "
                f"process(es). Use a multiple of {devices}, such as {max(1, round(size / devices)) * devices}."
            )
    _check_protocol(config.data.dataset.partition("/")[0], get_protocol(config.evaluate.protocol).name)
    if config.parallel.mapping not in MAPPINGS:
        raise UserError(
            f"config.parallel.mapping is {config.parallel.mapping!r}; it is one of {', '.join(MAPPINGS)}."
        )
    if config.model.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype is {config.model.dtype!r}; it is float32 or bfloat16.")


def _check_protocol(dataset: str, protocol: str) -> None:
    """A result under the name of another dataset's protocol would mislead whoever reads it."""
    if dataset in PROTOCOLS_OF and not protocol.startswith(PROTOCOLS_OF[dataset]):
        fitting = [name for name in PROTOCOLS if name.startswith(PROTOCOLS_OF[dataset])]
        raise UserError(
            f"config.evaluate.protocol = {protocol!r} does not belong to the dataset {dataset!r}; its "
            f"{'protocol is' if len(fitting) == 1 else 'protocols are'} {', '.join(fitting)}."
        )


def check_same_run(saved: Mapping[str, Any], current: Mapping[str, Any], workdir: str) -> None:
    """Checks that a checkpoint belongs to this configuration, so that resuming continues the same run.

    Args:
        saved: the configuration stored in the checkpoint, as JSON values.
        current: the one asked for, likewise.
        workdir: where the checkpoint is, for the message.

    Raises:
        UserError: a field that decides the weights differs.
    """
    before, now = dict(flatten(saved)), dict(flatten(current))
    different = [
        f"config.{name} was {before.get(name, 'not there')!r} and is now {now.get(name, 'not there')!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(FREE_ON_RESUME)
    ]
    if different:
        shown = "; ".join(different[:5]) + ("; ..." if len(different) > 5 else "")
        raise UserError(
            f"{workdir} holds checkpoints of another configuration: {shown}. Give another --workdir to start a new "
            "run, or the configuration of before to resume the old one. Nothing was changed."
        )
