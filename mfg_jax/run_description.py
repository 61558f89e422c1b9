"""What a work directory says of the run in it: its configuration, command, versions and devices."""

import importlib.metadata
import json
import pathlib
import platform
import resource
import shlex
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax

from mfg_jax.errors import UserError

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
    """Writes `run.json` into `workdir`; a resumed run writes it anew."""
    temporary = workdir / "run.json.tmp"
    temporary.write_text(json.dumps(describe(settings), indent=2) + "\n")
    temporary.replace(workdir / "run.json")


def peak_memory_bytes() -> int:
    """The most memory this process has held at once."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
