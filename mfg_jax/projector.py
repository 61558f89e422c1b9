"""The files of TensorBoard's embedding projector: one set of vectors, with labels and pictures.

They are the documented ones: `projector_config.pbtxt` names a table of vectors, a table of labels and a sprite image,
pictures side by side. tensorboardX writes them too, but adds another set with each call; here the newest one takes the
place of the one before.
"""

import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mfg_jax.retrieval.results import write_text
from mfg_jax.retrieval.retrieval_set import FloatArray, IntArray

# TensorBoard shows no sprite image of more than 8,192 pixels a side.
THUMBNAIL_PIXELS = 48
MOST_IMAGES = (8192 // THUMBNAIL_PIXELS) ** 2

_CONFIG = "projector_config.pbtxt"
_FOLDER = "projector"


def choose_images(ids: IntArray, queried: IntArray, limit: int, seed: int = 0) -> IntArray:
    """Chooses whole identities, so that what should lie together is there: of a random few images, most would be alone.

    Args:
        ids: `(N,)` int identity of each image.
        queried: identities to take before others, those of the queries.
        limit: how many images at most; the last identity is cut short for it.
        seed: of the choice.

    Returns:
        `(min(N, limit),)` int64 places in `ids`, ascending.
    """
    known, of_image = np.unique(ids, return_inverse=True)
    random = np.random.default_rng(seed).permutation(len(known))
    order = np.lexsort((random[of_image], ~np.isin(ids, queried)))
    return np.sort(order[:limit])


def make_sprite(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures side by side, by rows, as many in a row as it takes to make a square; what is left over is white.

    Args:
        thumbnails: N of `(P, P, 3)` uint8, one size.

    Returns:
        `(S, S, 3)` uint8.
    """
    pixels = thumbnails[0].shape[0]
    columns = math.isqrt(len(thumbnails) - 1) + 1
    sprite = np.full((columns * pixels, columns * pixels, 3), 255, np.uint8)
    for place, thumbnail in enumerate(thumbnails):
        row, column = divmod(place, columns)
        sprite[row * pixels : (row + 1) * pixels, column * pixels : (column + 1) * pixels] = thumbnail
    return sprite


def write_projector(
    directory: pathlib.Path,
    name: str,
    features: FloatArray,
    labels: Mapping[str, Sequence[Any]],
    thumbnails: Sequence[np.ndarray],
) -> None:
    """Writes a set of vectors where TensorBoard looks for it, in the place of the one before.

    Args:
        directory: of TensorBoard's events.
        name: of the set, as TensorBoard lists it.
        features: `(N, D)` float.
        labels: two columns or more by heading, each of N values; tabs and ends of lines in them become spaces.
        thumbnails: N of `(P, P, 3)` uint8 RGB, one size.
    """
    parts = directory / f"{_FOLDER}.tmp"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    with (parts / "tensors.tsv").open("w") as file:
        for vector in features:
            file.write("\t".join(f"{value:.6g}" for value in vector.tolist()) + "\n")
    rows = [list(labels), *zip(*labels.values(), strict=True)]
    lines = ["\t".join(" ".join(str(value).split()) for value in row) for row in rows]
    (parts / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    encoded = cv2.imencode(".png", make_sprite(thumbnails)[:, :, ::-1])[1]
    (parts / "sprite.png").write_bytes(encoded.tobytes())

    # The file that names the others goes first and comes last: TensorBoard meets no half of a set.
    (directory / _CONFIG).unlink(missing_ok=True)
    shutil.rmtree(directory / _FOLDER, ignore_errors=True)
    os.replace(parts, directory / _FOLDER)
    write_text(
        directory / _CONFIG,
        f'embeddings {{\n  tensor_name: "{name}"\n  tensor_path: "{_FOLDER}/tensors.tsv"\n'
        f'  metadata_path: "{_FOLDER}/metadata.tsv"\n'
        f'  sprite {{\n    image_path: "{_FOLDER}/sprite.png"\n'
        f"    single_image_dim: {thumbnails[0].shape[1]}\n    single_image_dim: {thumbnails[0].shape[0]}\n  }}\n}}\n",
    )
