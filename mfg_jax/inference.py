"""A trained network, loaded from its checkpoint: for notebooks and programs. Needs none of the training code."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mfg_jax import checkpoint, embedding, html_table, parallel, weights_file
from mfg_jax.data.images import decode, resize
from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet

# An image as an array (H, W, 3) uint8 RGB, as the name of a file, or as a file's bytes.
Image = np.ndarray | str | os.PathLike[str] | bytes
Images = np.ndarray | Sequence[Image]


@dataclasses.dataclass(frozen=True)
class ReadableImages:
    """What `Embedder.embed_readable` made of images of which some may be damaged.

    Attributes:
        features: `(M, D)` float32 of the images that could be read, in their order.
        index: `(M,)` int64: which images these are.
        problems: for each of the others, by its index, what is wrong.
    """

    features: np.ndarray
    index: np.ndarray
    problems: Mapping[int, str]


@dataclasses.dataclass(frozen=True, repr=False)
class Embedder:
    """A network and its weights.

    Attributes:
        config: the configuration it was trained with, as JSON values.
        variables: parameters and batch statistics, as `MFGNet.apply` takes them.
        step: optimizer steps that led to them.
        model: the Flax module.
        mesh: the devices it runs on.
        forward: `(variables, (B, H, W, 3) uint8) -> (B, D) float32`, compiled.
    """

    config: Mapping[str, Any]
    variables: Any
    step: int
    model: MFGNet
    mesh: Mesh
    forward: embedding.Forward

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels, that images are brought to."""
        return self.config["data"]["height"], self.config["data"]["width"]

    @functools.cached_property
    def embedding_size(self) -> int:
        """D, the width of the embeddings."""
        image = jax.ShapeDtypeStruct((self.mesh.size, *self.image_size, 3), np.uint8)
        return jax.eval_shape(self.forward, self.variables, image).shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells this network from any other: embeddings of two networks cannot be compared."""
        settings = [self.config["model"], self.image_size]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            values = np.ascontiguousarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    def embed(self, images: Images, batch_size: int = 32) -> np.ndarray:
        """Embeds images.

        Args:
            images: `(N, H, W, 3)` uint8 RGB of any size, or N images, each the path of a file, a file's bytes or an
                array `(H, W, 3)` uint8 RGB.
            batch_size: images at once; rounded up to a multiple of the number of devices.

        Returns:
            `(N, D)` float32 of unit norm, for Euclidean distance.

        Raises:
            UserError: an array is of another shape or type, or a file is not an image.
        """

        def refuse(index: int, problem: str) -> None:
            image = images[index]
            name = f"number {index}" if isinstance(image, bytes | np.ndarray) else os.fspath(image)
            raise UserError(f"The image {name} cannot be read: {problem}.")

        return self._embed(images, batch_size, refuse)

    def embed_readable(self, images: Images, batch_size: int = 32) -> ReadableImages:
        """Embeds images, leaving out those that cannot be read; otherwise as `embed`."""
        problems: dict[int, str] = {}

        features = self._embed(images, batch_size, problems.__setitem__)
        index = np.array([place for place in range(len(features)) if place not in problems], np.int64)
        return ReadableImages(features[index], index, dict(sorted(problems.items())))

    def _embed(self, images: Images, batch_size: int, on_problem: Callable[[int, str], None]) -> np.ndarray:
        """As `embed`; what cannot be read goes to `on_problem` and counts as a black image."""
        if isinstance(images, np.ndarray) and (
            images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8
        ):
            raise UserError(
                f"Images are an array (N, H, W, 3) of uint8 RGB; got {images.shape} of {images.dtype}. One image is "
                "`image[None]`; a float image in [0, 1] is `(255 * image).round().astype('uint8')`."
            )
        if isinstance(images, str | os.PathLike):
            raise UserError(f"Give a list of paths, not one: embed([{str(images)!r}]).")
        if isinstance(images, bytes):
            raise UserError("Give a list of images, not the bytes of one: embed([data]).")
        if len(images) == 0:
            raise UserError("There are no images to embed.")
        batch_size = -(-min(batch_size, len(images)) // self.mesh.size) * self.mesh.size

        def prepare(index: int) -> np.ndarray | str:
            return _prepare(images[index], *self.image_size)

        def batches() -> Iterator[np.ndarray]:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                for start in range(0, len(images), batch_size):
                    batch = np.zeros((batch_size, *self.image_size, 3), np.uint8)
                    places = range(start, min(start + batch_size, len(images)))
                    for row, image in enumerate(threads.map(prepare, places)):
                        if isinstance(image, str):
                            on_problem(start + row, image)
                        else:
                            batch[row] = image
                    yield batch

        return embedding.embed(
            self.forward, self.variables, batches(), len(images), self.mesh, "embedding images"
        )

    def __repr__(self) -> str:
        """One line: the variables alone would fill a screen."""
        height, width = self.image_size
        return (
            f"Embedder(step {self.step}, ResNet-{self.model.depth}, granularities {tuple(self.model.granularities)}, "
            f"{height} x {width} pixels, {self.embedding_size} numbers)"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        model, data = self.config["model"], self.config["data"]
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        height, width = self.image_size
        devices = self.mesh.devices.flat
        return html_table.html_table(
            "MFG-Net",
            {
                "trained on": f"{data['dataset']}, {self.model.num_identities:,} identities",
                "step": f"{self.step:,}",
                "backbone": f"ResNet-{model['depth']}, width {model['width']}",
                "granularities": ", ".join(map(str, self.model.granularities)),
                "parameters": f"{parameters:,}",
                "images": f"{height} x {width} pixels, RGB",
                "embedding": f"{self.embedding_size:,} float32 of unit norm, Euclidean distance",
                "devices": f"{self.mesh.size} ({devices[0].device_kind})",
                "fingerprint": self.fingerprint,
            },
        )


def _prepare(image: Image, height: int, width: int) -> np.ndarray | str:
    """The image as the network takes it, `(height, width, 3)` uint8, or what is wrong with it."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or not image.size:
            return f"it is an array {image.shape} of {image.dtype}, not (H, W, 3) of uint8 RGB"
        return resize(image, height, width)
    try:
        encoded = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
        return decode(encoded, height, width)
    except OSError as error:
        return str(error.strerror)
    except ValueError as error:
        return str(error).rstrip(".")


def rebuild_network(description: Mapping[str, Any]) -> MFGNet:
    """The network that a checkpoint's description tells of."""
    settings = dict(description["config"]["model"])
    # JSON knows lists alone, and a module's attributes have to be hashable.
    granularities = tuple(tuple(g) if isinstance(g, list) else g for g in settings.pop("granularities"))
    branch_from = tuple(settings.pop("branch_from"))
    return MFGNet(
        num_identities=description["num_identities"],
        granularities=granularities,
        branch_from=branch_from,
        **settings,
    )


def load(workdir: str | os.PathLike[str], step: int | None = None) -> Embedder:
    """Loads a trained network, whatever number of devices it was trained on.

    Args:
        workdir: of a run, such as "runs/vric", or a `.safetensors` file exported from one (`mfg_jax.weights_file`).
        step: which checkpoint; None for the newest.

    Raises:
        UserError: there is no such checkpoint, or it is of another version of this project.
    """
    path = pathlib.Path(workdir)
    if path.suffix == ".safetensors":
        variables, description, step = weights_file.load_exported(path)
    else:
        variables, description, step = checkpoint.load_variables(path / "checkpoints", step)
    try:
        model = rebuild_network(description)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"The checkpoint of step {step} in {workdir} was written by another version of this project: its network "
            f"cannot be rebuilt from the settings stored with it ({error!r}). Load it with that version, or train anew."
        ) from error
    mesh = parallel.make_mesh()
    return Embedder(
        config=description["config"],
        variables=parallel.replicate(variables, mesh),
        step=step,
        model=model,
        mesh=mesh,
        forward=embedding.make_forward(model, mesh),
    )
