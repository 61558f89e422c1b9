"""A trained network at work, from the command line.

    python -m mfg_jax embed|calibrate|search|compare|export ...

Training and evaluation are `python -m mfg_jax.main`. Exit status 1 means bad input, told in a paragraph; 2 means bad
usage.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mfg_jax.errors import UserError
from tfds_builders.errors import DatasetError

_COMMANDS = {
    "embed": "pictures to one features file",
    "calibrate": "from labelled pictures to distance thresholds with their error rates",
    "search": "the embedded pictures nearest to a query picture",
    "compare": "do two pictures show the same vehicle?",
    "export": "the network as one file that needs JAX and flatbuffers alone, or as ONNX",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m mfg_jax",
        description="A trained network at work. To train one: python -m mfg_jax.main --help.",
    )
    commands = parser.add_subparsers(title="commands, each with --help", dest="command", required=True)
    for name, summary in _COMMANDS.items():
        # A command's own imports (JAX, Orbax) take seconds: only that of the one asked for.
        module = importlib.import_module(f"mfg_jax.commands.{name}") if name in given[:1] else None
        command = commands.add_parser(
            name,
            help=summary,
            description=module.DESCRIPTION if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if module:
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(given)
    try:
        options.run(options)
    except (UserError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # as when piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename} cannot be read or written: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130  # as a shell reports an interrupt
    return 0


if __name__ == "__main__":
    sys.exit(main())
