"""The command line: trains or evaluates by a configuration file.

    python -m mfg_jax.main --config=configs/vric.py [--workdir=DIR] [--mode=train|evaluate] [--config.x.y=value]

Training that was stopped is resumed by the same command. Exit status 1 means bad input, told in a paragraph.
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

from mfg_jax.config import flatten, nearest_field
from mfg_jax.errors import UserError
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


def _run(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(
            f"Not understood: {' '.join(arguments[1:])}. Options begin with two dashes; see --help."
        )
    if _CONFIG.value is None:
        raise UserError("Say what to train: --config=configs/synthetic.py needs no download.")
    config = _CONFIG.value
    path, network = _split_config(config_flags.get_config_filename(flags.FLAGS["config"]))
    name = pathlib.Path(path).stem + (f"-{network}" if network else "")
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{name}")
    # Our own log alone: the libraries' goes into detail that hides it.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("mfg_jax").addHandler(handler)
    logging.getLogger("mfg_jax").setLevel(logging.INFO)
    logging.getLogger("mfg_jax").propagate = False
    # Imported late: TFDS and Grain take their time, and a mistyped option is answered without them.
    if _MODE.value == "train":
        from mfg_jax import train

        train.train_and_evaluate(config, workdir)
    else:
        from mfg_jax import evaluation

        evaluation.evaluate_checkpoint(config, workdir, _STEP.value)


def main() -> None:
    """Runs the command and exits: 0 when done, 1 for bad input."""
    try:
        arguments = _parse_flags(sys.argv)
        _run(arguments)
    except (UserError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
