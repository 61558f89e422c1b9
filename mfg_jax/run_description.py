"""What a work directory says of the run in it: configuration, command, versions and devices, and what its files are."""

import importlib.metadata
import json
import pathlib
import platform
import resource
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from typing import Any

import jax

from mfg_jax.errors import UserError

# All that training, evaluating and reporting leave in a work directory. A folder's name ends in a slash.
ENTRIES = {
    "README.txt": "this text",
    "run.json": "the command, versions of the packages, devices, and every field of the configuration",
    "metrics.jsonl": "one JSON object a line: losses and speed every config.train.log_every_steps steps and at the end "
    "of each epoch, means over the steps since the line before; and the figures of each evaluation (fractions)",
    "epochs.txt": "the same as a table, one row an epoch",
    "checkpoints/": "step_NUMBER/: network, optimizer and configuration after so many steps; which are kept, "
    "config.checkpoint says. damaged_...: could not be read, and is not used",
    "results/": "table.txt: the final figures. PROTOCOL_step_NUMBER.json: an evaluation, with the values of every "
    "query; ..._lists.npz: the first twenty images that each query retrieved",
    "pictures/": "ranked_lists_...: eight queries from the easiest to the hardest, and what they retrieved, at each "
    "evaluation; curves...: of the training; cmc...: written with the report",
    "tensorboard/": "events: the metrics and the ranked lists. projector_config.pbtxt and projector/: embeddings of "
    "the newest evaluation, with labels and thumbnails",
    "profile/": "traces of the steps of config.train.profile_steps; only where they are asked for",
    "pretrained.txt": "what became of each tensor of the weights it began with; only with config.train.pretrained",
    "report.html": "the report, once it is written: see below",
}

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of this project where it is installed, and of the packages a result may depend on."""
    found = {"python": platform.python_version()}
    for package in ("mfg-jax", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"  # this project, where it runs from its source tree
    return found


def command() -> str:
    """The command line of this process, for a shell."""
    return shlex.join([pathlib.Path(sys.executable).name, *sys.orig_argv[1:]])


def describe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into `run.json` and into every result: command, versions, devices and configuration."""
    devices = jax.devices()
    return {
        "command": command(),
        "versions": versions(),
        "devices": {"kind": devices[0].device_kind, "count": len(devices), "processes": jax.process_count()},
        "config": dict(settings),
    }


def make_workdir(workdir: pathlib.Path) -> None:
    """Makes the directory of a run where it is missing.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"The work directory {workdir} cannot be made or written: {error.strerror}. Give another --workdir."
        ) from error


def write(workdir: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes `run.json` and `README.txt` into `workdir`; a resumed run writes them anew."""
    temporary = workdir / "run.json.tmp"
    temporary.write_text(json.dumps(describe(settings), indent=2) + "\n")
    temporary.replace(workdir / "run.json")
    (workdir / "README.txt").write_text(readme(workdir, command()))


def readme(workdir: pathlib.Path, command: str) -> str:
    """What each file of a run is, and how to go on from it.

    Args:
        workdir: of the run, as the commands are to name it.
        command: that trains it.
    """
    width = 2 + max(map(len, ENTRIES))
    entries = [
        textwrap.fill(
            text,
            110,
            initial_indent=f"  {name:<{width}}",
            subsequent_indent=" " * (width + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in ENTRIES.items()
    ]
    quoted = shlex.quote(str(workdir))
    return "\n".join(
        [
            "A training run of MFG-Net in JAX.",
            "",
            *entries,
            "",
            "To go on from here, in the folder the run was started from:",
            "",
            "  train on where it stopped; a finished run draws its results again",
            f"    {command}",
            "  evaluate the newest checkpoint, or that of --step=NUMBER",
            f"    {command} --mode=evaluate",
            "  write report.html, one page to open in a browser",
            f"    python -m mfg_jax.retrieval.report --workdir={quoted}",
            "  watch the curves, ranked lists and embeddings (pip install tensorboard)",
            f"    tensorboard --logdir={shlex.quote(str(workdir / 'tensorboard'))}",
            "  embed and search pictures in a program or a notebook",
            f"    import mfg_jax; model = mfg_jax.load({str(workdir)!r})",
            "",
        ]
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held at once."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
