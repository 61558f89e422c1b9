"""Files of weights: reads `.safetensors` and PyTorch's, and exports a trained network.

    python -m mfg_jax.weights_file --workdir=runs/vric --out=vric.safetensors [--step=N]

Safetensors is a header of JSON and the raw numbers: reading it runs nothing. PyTorch's own format is a pickle, which
may hold a program; it is read by PyTorch, which has to be installed, and only as `weights_only`: a file that holds
anything but weights is refused and nothing in it is run. A file's first bytes tell its format, not its name.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mfg_jax import checkpoint
from mfg_jax.errors import UserError

FORMAT = "mfg_jax"
# Under which of its names a training checkpoint holds the weights.
_WRAPPERS = ("state_dict", "model")


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
        tensors: by name, in the file's order, types and layouts.
        metadata: text stored beside them; {} where there is none.
        fingerprint: SHA-256 of the file, in hexadecimal.
        notes: what else was in the file and was not read.
    """

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    fingerprint: str
    notes: tuple[str, ...] = ()


def read(path: pathlib.Path) -> Weights:
    """Reads a file of weights.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote: a state dict, or a checkpoint that holds one under
            "state_dict" or "model".

    Raises:
        UserError: there is no such file, it is damaged, is something else, holds more than weights, or needs PyTorch
            and there is none.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            file.seek(0)
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"The weights {path} cannot be read: {error.strerror}.") from error
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        tensors, notes = _read_torch(path)
        return Weights(tensors, {}, fingerprint, notes)
    if start[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
        return Weights(tensors, metadata, fingerprint)
    raise UserError(
        f"{path} is not a file of weights: it begins with {start!r}. Expected a .safetensors file or one written by "
        "torch.save. A web page or a Git LFS pointer saved in place of the file begins with text; an empty or "
        "cut-short download is damaged: download it again."
    )


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:  # TypeError: a number type that NumPy has no name for
        raise UserError(
            f"The weights {path} are damaged or cut short: {error}. Download or export them again."
        ) from error


def _read_torch(path: pathlib.Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is in PyTorch's format, and reading it needs PyTorch, which is not installed: install "
            "requirements-parity.txt, or give the same weights as a .safetensors file."
        ) from error
    try:
        with path.open("rb") as file:  # given a path, PyTorch would go by its ending
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        if "global" in reason.lower() or "unsupported" in reason.lower():
            raise UserError(
                f"{path} holds more than weights, and reading the rest could run a program in it. It was refused and "
                "nothing was run. Where you trust the file, save its state dict alone: "
                "torch.save(network.state_dict(), ...)."
            ) from error
        raise _damaged_torch(path, reason) from error
    except (
        EOFError,
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        raise _damaged_torch(path, " ".join(str(error).split())) from error

    notes: list[str] = []
    state, wrapper = content, ""
    while isinstance(state, Mapping):
        inner = next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None:
            break
        notes += [f"not read: {wrapper}{name}" for name in state if name != inner]
        wrapper += f"{inner}: "
        state = state[inner]
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        holds = (
            f"a mapping of {', '.join(map(str, list(state)[:8]))}"
            if isinstance(state, Mapping)
            else type(state).__name__
        )
        raise UserError(
            f"{path} holds no state dict: it is {holds}. Expected tensors by name, by themselves or under "
            f"{' or '.join(map(repr, _WRAPPERS))}."
        )
    tensors = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            tensors[str(name)] = _to_numpy(value)
        else:
            notes.append(f"not read: {wrapper}{name}, which is a {type(value).__name__}")
    return tensors, tuple(notes)


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # which NumPy knows only by way of JAX
        return tensor.view(torch.uint16).numpy().view(jax.numpy.bfloat16)
    return tensor.numpy()


def _damaged_torch(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read as a file of PyTorch: it is damaged, cut short, or something else ({reason[:200]}). "
        "Download it again, or save the state dict alone: torch.save(network.state_dict(), ...)."
    )


def export(path: pathlib.Path, variables: Any, description: Mapping[str, Any], step: int) -> None:
    """Writes a network's weights, with all that is needed to rebuild it.

    Names are the network's own, such as "params/trunk/stem/conv/kernel"; all tensors are float32.

    Args:
        path: of the file; one that is there is replaced once the new one is complete.
        variables: parameters and batch statistics, as `MFGNet.apply` takes them.
        description: JSON values: `config` and `num_identities` at least.
        step: optimizer steps that led to the weights.

    Raises:
        UserError: the file cannot be written.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    tensors = {
        # The writer takes the memory as it lies.
        "/".join(entry.key for entry in path): np.ascontiguousarray(leaf, dtype=np.float32)
        for path, leaf in leaves
    }
    metadata = {"format": FORMAT, "step": str(step), "description": json.dumps(dict(description))}
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The weights cannot be written to {path}: {error}.") from error


def load_exported(path: pathlib.Path) -> tuple[Any, dict[str, Any], int]:
    """Reads back what `export` wrote: variables, description and step, as `checkpoint.load_variables` gives them.

    Raises:
        UserError: the file cannot be read, or is of something else than an exported MFG-Net.
    """
    weights = read(path)
    if weights.metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} holds weights, but not those of an exported MFG-Net. Those are written by "
            "python -m mfg_jax.weights_file --workdir=RUN --out=FILE."
        )
    variables: dict[str, Any] = {}
    for key, tensor in weights.tensors.items():
        *modules, leaf = key.split("/")
        node = variables
        for name in modules:
            node = node.setdefault(name, {})
        node[leaf] = tensor
    return variables, json.loads(weights.metadata["description"]), int(weights.metadata["step"])


def main() -> None:
    """Runs the command and exits: 0 when done, 1 for bad input."""
    parser = argparse.ArgumentParser(
        description="Exports the weights of a trained network to a .safetensors file."
    )
    parser.add_argument(
        "--workdir", type=pathlib.Path, required=True, help="directory of the run, such as runs/vric"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file to write")
    parser.add_argument("--step", type=int, help="checkpoint to take; the newest where it is not given")
    arguments = parser.parse_args()
    try:
        variables, description, step = checkpoint.load_variables(
            arguments.workdir / "checkpoints", arguments.step
        )
        export(arguments.out, variables, description, step)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(
        f"Wrote the weights of step {step} to {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)."
    )


if __name__ == "__main__":
    main()
