"""The command line: trains or evaluates by a configuration file.

    python -m mfg_jax.main --config=configs/vric.py [--workdir=DIR] [--mode=train|evaluate] [--config.x.y=value]

Training that was stopped is resumed by the same command. Exit status 1 means bad input, told in a paragraph.
"""

import logging
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from mfg_jax.config import nearest_field
from mfg_jax.errors import UserError
from tfds_builders.errors import DatasetError

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration file, such as configs/vric.py."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run: checkpoints, results, pictures. Default: runs/<name of the configuration>.",
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train and evaluate, or evaluate a checkpoint."
)
_STEP = flags.DEFINE_integer(
    "step", None, "With --mode=evaluate: the checkpoint's step. Default: the newest."
)


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the command line; whatever is wrong with it becomes a `UserError`."""
    path = next((a.partition("=")[2] for a in arguments[1:] if re.match(r"--?config=", a)), None)
    if path is not None and not pathlib.Path(path).is_file():
        known = (
            ", ".join(sorted(str(file) for file in pathlib.Path("configs").glob("[a-z]*.py"))) or "none here"
        )
        raise UserError(f"There is no configuration file {path}. Configurations found: {known}.")
    try:
        return list(flags.FLAGS(list(arguments)))
    except (KeyError, AttributeError) as error:
        # What ml_collections raises for --config.x.y=value where there is no such field, or for a configuration
        # file that sets one.
        for argument in arguments[1:]:
            match = re.match(r"--?config\.([\w.]+)", argument)
            if match and not _has_field(match[1]):
                nearest = nearest_field(_CONFIG.value, match[1])
                raise UserError(
                    f"There is no field config.{match[1]}. The nearest known one is config.{nearest}; "
                    "configs/default.py lists them all."
                ) from None
        raise UserError(f"The configuration {path} cannot be used: {error}") from error
    except flags.Error as error:
        raise UserError(f"{error}. See --help for the options.") from error


def _has_field(name: str) -> bool:
    node = _CONFIG.value
    for part in name.split("."):
        if not hasattr(node, "keys") or part not in node:
            return False
        node = node[part]
    return True


def _run(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(
            f"Not understood: {' '.join(arguments[1:])}. Options begin with two dashes; see --help."
        )
    if _CONFIG.value is None:
        raise UserError("Say what to train: --config=configs/synthetic.py needs no download.")
    config = _CONFIG.value
    workdir = pathlib.Path(
        _WORKDIR.value or f"runs/{pathlib.Path(flags.FLAGS['config'].config_filename).stem}"
    )
    # Our own log alone: the libraries' goes into detail that hides it.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("mfg_jax").addHandler(handler)
    logging.getLogger("mfg_jax").setLevel(logging.INFO)
    logging.getLogger("mfg_jax").propagate = False
    # Imported late, so that a mistyped option is answered at once.
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
