"""The command line: trains or evaluates by a configuration file.

    python -m mfg_jax.main --config=configs/vric.py [--workdir=DIR] [--mode=train|evaluate] [--config.x.y=value]

Training that was stopped is resumed by the same command. docs/cluster.md tells how to start a job of several processes.
Exit status:

    0    done
    1    bad input, told in a paragraph
    69   another process of the job was lost
    75   stopped by SIGTERM or SIGINT in order: the step was finished and saved, and the same command goes on
         (EX_TEMPFAIL of sysexits.h: "try again"). A second signal ends the process at once, with 143 or 130.
"""

import itertools
import logging
import pathlib
import re
import runpy
import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mfg_jax import distributed
from mfg_jax.config import flatten, nearest_field
from mfg_jax.errors import UserError
from mfg_jax.interruption import EXIT_INTERRUPTED, Interrupted, Interruption
from tfds_builders.errors import DatasetError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Configuration file, such as configs/vric.py; configs/vric.py:NAME for another network."
    " (configs/networks.py).",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run: checkpoints, results, pictures. Default: runs/<name of the configuration>, with "
    "-<name of the network> where one is given.",
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train and evaluate, or evaluate a checkpoint."
)
_STEP = flags.DEFINE_integer(
    "step", None, "With --mode=evaluate: the checkpoint's step. Default: the newest."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    distributed.MODES,
    "Whether this is one process of several. auto: if a cluster is recognised (SLURM, Open MPI, Kubernetes, Cloud "
    "TPU), or --coordinator is given; on: demand it; off: never.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster is recognised; with the next two."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.")
_DISTRIBUTED_TIMEOUT = flags.DEFINE_float(
    "distributed_timeout", 300.0, "Seconds to wait for the other processes.", lower_bound=1.0
)

# Fields that may differ from host to host.
_OF_THE_HOST = ("data.data_dir", "data.manual_dir", "data.threads", "data.workers")


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the command line; whatever is wrong with it becomes a `UserError`."""
    option = _option_value(arguments[1:], "config")
    if option is not None:
        path, network = _split_config(option)
        _check_fields(path, network, arguments[1:])
    app.define_help_flags()
    try:
        return list(flags.FLAGS(list(arguments)))
    except flags.Error as error:
        raise UserError(f"{error}. See --help for the options.") from error


def _option_value(arguments: Sequence[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value`, the last one as for absl; None where it is not given."""
    value = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        if argument in (f"--{name}", f"-{name}"):
            value = following
        if re.match(rf"--?{name}=", argument):
            value = argument.partition("=")[2]
    return value


def _split_config(option: str) -> tuple[str, str | None]:
    """File and network of `configs/vric.py:pcb`; a colon before the file's ending is part of its name."""
    match = re.fullmatch(r"(.*?\.py):(.*)", option)
    return (match[1], match[2]) if match else (option, None)


def _check_fields(path: str, network: str | None, arguments: Sequence[str]) -> None:
    """Checks that the configuration loads and has every field that an option overrides.

    absl would answer both with a traceback, and can no longer show the configuration when it does.
    """
    if not pathlib.Path(path).is_file():
        known = (
            ", ".join(sorted(str(file) for file in pathlib.Path("configs").glob("[a-z]*.py"))) or "none here"
        )
        raise UserError(f"There is no configuration file {path}. Configurations found: {known}.")
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config() if network is None else get_config(network)
    except Exception as error:  # the file is a program of the user's, and may raise anything
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"The configuration {path} cannot be loaded: {type(error).__name__}: {reason}. Expected a function "
            "get_config() that returns a ConfigDict, such as the one of configs/default.py."
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() of {path} returns a {type(config).__name__}; expected a ConfigDict.")
    known_fields = [name for name, _ in flatten(config.to_dict())]
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known_fields:
            raise UserError(
                f"There is no field config.{match[1]}. The nearest known one is "
                f"config.{nearest_field(known_fields, match[1])}; configs/default.py lists them all."
            )


def _check_flags(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(
            f"Not understood: {' '.join(arguments[1:])}. Options begin with two dashes; see --help."
        )
    if _CONFIG.value is None:
        raise UserError("Say what to train: --config=configs/synthetic.py needs no download.")


def _log_ours() -> None:
    """Shows our own log alone: the libraries' goes into detail that hides it."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("mfg_jax").addHandler(handler)
    logging.getLogger("mfg_jax").setLevel(logging.INFO)
    logging.getLogger("mfg_jax").propagate = False


def _workdir() -> pathlib.Path:
    path, network = _split_config(config_flags.get_config_filename(flags.FLAGS["config"]))
    name = pathlib.Path(path).stem + (f"-{network}" if network else "")
    return pathlib.Path(_WORKDIR.value or f"runs/{name}")


def _start_job() -> distributed.Job:
    """Starts this process's part of a job of several, where it is one. Before JAX is used."""
    fields = {f"config.{name}": repr(value) for name, value in flatten(_CONFIG.value.to_dict())}
    host_fields = [f"config.{name}" for name in _OF_THE_HOST]
    shared = {name: value for name, value in fields.items() if name not in host_fields}
    return distributed.start(
        _DISTRIBUTED.value,
        coordinator=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
        timeout=_DISTRIBUTED_TIMEOUT.value,
        settings=shared | {"--mode": _MODE.value, "--step": str(_STEP.value), "--workdir": str(_workdir())},
    )


def _run() -> None:
    # Imported late: TFDS and Grain take their time, and a mistyped option is answered without them.
    if _MODE.value == "train":
        with Interruption() as interruption:
            from mfg_jax import train

            train.train_and_evaluate(_CONFIG.value, _workdir(), interruption)
    else:
        from mfg_jax import evaluation

        evaluation.evaluate_checkpoint(_CONFIG.value, _workdir(), _STEP.value)


def main() -> None:
    """Runs the command and exits, with a status of those above."""
    job = distributed.Job()
    try:
        _check_flags(_parse_flags(sys.argv))
        _log_ours()
        job = _start_job()
        _run()
        job.finish()
    except (UserError, DatasetError) as error:
        print(f"error: {job.prefix}{error}", file=sys.stderr)
        job.fail(1, str(error))
    except Interrupted as interrupted:
        print(f"{job.prefix}{interrupted}", file=sys.stderr)
        job.finish()
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        job.fail_unexpectedly(error)
        raise


if __name__ == "__main__":
    main()
