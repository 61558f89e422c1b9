"""A network as one file that runs without this project: by `jax.export`, or as ONNX.

The file holds the weights and all of the computation from uint8 pixels to the embedding; decoding a picture and
stretching it to the network's size stay outside. Beside it lies a JSON description. Docs: docs/export.md.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np

from mfg_jax.data.augment import normalise
from mfg_jax.errors import UserError
from mfg_jax.inference import Embedder
from mfg_jax.models import MFGNetOutput

PLATFORMS = ("cpu", "cuda", "tpu")
FORMATS = ("jax", "onnx")
# The largest distance between an embedding (of norm 1) and the exported network's, for float32 on a CPU. Accelerators
# multiply at lower precision, and bfloat16 rounds to 8 bits.
TOLERANCE = 1e-5
_LOOSE_TOLERANCE = 1e-2
_PARITY_BATCHES = (1, 7)
_SPEED_BATCHES = (1, 32)
_SPEED_REPEATS = 7
_SPEED_SECONDS = 20.0  # for each size of batch; a repeat that was begun is finished

Run = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the network.
        description_path: of the JSON beside it.
        description: what is in that.
    """

    path: pathlib.Path
    description_path: pathlib.Path
    description: Mapping[str, Any]


def export(
    model: Embedder,
    path: str | os.PathLike[str],
    *,
    file_format: str = "jax",
    results: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> Exported:
    """Exports a network, checks that the file gives the same embeddings, and measures its speed.

    Args:
        model: the network.
        path: of the file to write; the description goes beside it, as `<path>.json`.
        file_format: "jax" for StableHLO as `jax.export` serialises it, "onnx" for ONNX.
        results: JSON values about the network's accuracy, to keep in the description.
        tolerance: of parity; None: `TOLERANCE`, and 1e-2 for bfloat16 or on an accelerator.

    Raises:
        UserError: parity fails, in which case nothing is written, or the converter to ONNX is not installed.
    """
    target = pathlib.Path(path)
    description_path = target.with_name(target.name + ".json")
    if file_format not in FORMATS:
        raise UserError(f"The format is {file_format!r}; it is one of {', '.join(FORMATS)}.")
    if tolerance is None:
        exact = jax.default_backend() == "cpu" and model.config["model"]["dtype"] == "float32"
        tolerance = TOLERANCE if exact else _LOOSE_TOLERANCE
    write, load = {"jax": (_write_jax, _load_jax), "onnx": (_write_onnx, _load_onnx)}[file_format]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        part = pathlib.Path(folder) / target.name
        details = write(model, part)
        # What is checked and timed is what was written, read back.
        run = load(part)
        parity = _measure_parity(model, run, tolerance)
        description = {
            "format": {"name": file_format, **details},
            "input": {
                "shape": ["batch", *model.image_size, 3],
                "dtype": "uint8",
                "meaning": "RGB pictures, decoded and stretched to this size; normalisation is inside",
            },
            "output": {
                "shape": ["batch", model.embedding_size],
                "dtype": "float32",
                "meaning": "embeddings of norm 1, for Euclidean distance",
            },
            "network": {
                "step": model.step,
                "fingerprint": model.fingerprint,
                "dataset": model.config["data"]["dataset"],
                "model": model.config["model"],
            },
            "results": dict(results or {}),
            "parity": parity,
            "speed": _measure_speed(model, run),
            "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
            "bytes": part.stat().st_size,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        part_description = pathlib.Path(folder) / description_path.name
        part_description.write_text(json.dumps(description, indent=2) + "\n")
        os.replace(part, target)
        os.replace(part_description, description_path)
    return Exported(target, description_path, description)


def find_results(workdir: str | os.PathLike[str], step: int) -> dict[str, Any]:
    """The summaries of a step's evaluations in a run, by name; empty where it was not evaluated."""
    found = {}
    for path in sorted(pathlib.Path(workdir).glob(f"results/*_step_{step:08d}.json")):
        try:
            found[path.stem] = json.loads(path.read_text())["summary"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"The result {path} is damaged ({error!r}); evaluate again to write it anew."
            ) from error
    return found


def _forward(model: Embedder) -> Callable[[jax.Array], jax.Array]:
    """`(B, H, W, 3)` uint8 to `(B, D)` float32, the weights inside."""
    variables = jax.device_get(model.variables)

    def forward(images: jax.Array) -> jax.Array:
        output = cast(MFGNetOutput, model.model.apply(variables, normalise(images), train=False))
        return output.embedding

    return forward


def _write_jax(model: Embedder, path: pathlib.Path) -> dict[str, Any]:
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.image_size, 3), np.uint8)
    exported = jax.export.export(jax.jit(_forward(model)), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())
    return {
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "jax": jax.__version__,
        "load": "jax.export.deserialize(bytearray(open(FILE, 'rb').read())).call(images)",
    }


def _load_jax(path: pathlib.Path) -> Run:
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(images))


def _write_onnx(model: Embedder, path: pathlib.Path) -> dict[str, Any]:
    missing = [name for name in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"Writing ONNX needs {' and '.join(missing)}: pip install --no-deps -r requirements-onnx.txt. --format=jax "
            "needs nothing more."
        )
    # It warns of each library that it could convert the layers of and that is not there.
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)
    import jax2onnx
    import onnx

    images = jax.ShapeDtypeStruct(("B", *model.image_size, 3), np.uint8)
    proto = jax2onnx.to_onnx(_forward(model), [images])
    # The converter leaves shapes of a layout it has changed on inner values, which runtimes warn about; they infer
    # their own.
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    return {
        "opset": max(opset.version for opset in proto.opset_import if opset.domain == ""),
        "input_name": proto.graph.input[0].name,
        "output_name": proto.graph.output[0].name,
        "jax2onnx": importlib.metadata.version("jax2onnx"),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "load": "onnxruntime.InferenceSession(FILE).run(None, {INPUT_NAME: images})[0]",
    }


def _load_onnx(path: pathlib.Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _measure_parity(model: Embedder, run: Run, tolerance: float) -> dict[str, Any]:
    """The largest difference to the network's own embeddings, for batches of several sizes.

    Raises:
        UserError: it is over the tolerance.
    """
    measured: dict[str, Any] = {"tolerance": tolerance, "device": jax.devices()[0].device_kind}
    for batch in _PARITY_BATCHES:
        images = _some_images(model, batch)
        expected, actual = model.embed(images, batch_size=batch), run(images)
        if actual.shape != expected.shape or actual.dtype != np.float32:
            raise UserError(
                f"The exported network gives {actual.shape} of {actual.dtype} where {expected.shape} of float32 was "
                "expected. Nothing was written."
            )
        difference = float(
            (np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()
        )
        measured[f"batch {batch}"] = {
            "largest_relative_difference": difference,
            "largest_difference_of_a_number": float(np.abs(actual - expected).max()),
        }
        if not difference <= tolerance:
            raise UserError(
                f"The exported network differs from the original: an embedding of a batch of {batch} by "
                f"{difference:.2g} of its norm, where at most {tolerance:g} is allowed. Nothing was written."
            )
    return measured


def _measure_speed(model: Embedder, run: Run) -> dict[str, Any]:
    """Images per second of the file and of the network itself, compiled and warm, by turns; medians."""
    measured: dict[str, Any] = {"device": jax.devices()[0].device_kind}

    def embed(images: np.ndarray) -> np.ndarray:
        return model.embed(images, batch_size=len(images))

    for batch in _SPEED_BATCHES:
        images = _some_images(model, batch)
        seconds: dict[str, list[float]] = {"exported": [], "original": []}
        begun = time.perf_counter()
        for repeat in range(_SPEED_REPEATS + 1):
            if repeat > 1 and time.perf_counter() - begun > _SPEED_SECONDS:
                break
            for name, function in (("exported", run), ("original", embed)):
                start = time.perf_counter()
                function(images)
                if repeat:  # the first compiles
                    seconds[name].append(time.perf_counter() - start)
        rates = {name: batch / statistics.median(times) for name, times in seconds.items()}
        measured[f"batch {batch}"] = {
            "repeats": len(seconds["exported"]),
            **{f"{name}_images_per_second": rate for name, rate in rates.items()},
        }
    return measured


def _some_images(model: Embedder, count: int) -> np.ndarray:
    """Pictures to try: smooth colour fields with noise, so that activations are neither all alike nor all extreme."""
    rng = np.random.default_rng(count)
    height, width = model.image_size
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    phases, slopes = rng.uniform(0, 6, (count, 1, 1, 3)), rng.uniform(2, 20, (count, 2, 1, 1, 3))
    waves = np.sin(phases + slopes[:, 0] * rows[None, :, :, None] + slopes[:, 1] * columns[None, :, :, None])
    return np.clip(128 + 80 * waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)
