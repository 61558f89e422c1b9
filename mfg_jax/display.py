"""Ranked pictures in a notebook."""

import base64
import dataclasses
import html
import pathlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mfg_jax.data.images import decode_reduced
from mfg_jax.errors import UserError
from mfg_jax.inference import Image, Images

_RIGHT, _WRONG, _UNKNOWN = "#1a9641", "#d7191c", "#999999"
_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class RankedPictures:
    """Ranked pictures, drawn by a notebook as HTML that needs no other file."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """What a terminal shows."""
        return "RankedPictures: shown as pictures in a notebook"


def show(
    query_images: Images,
    gallery_images: Images | Mapping[int, Image],
    indices: npt.ArrayLike,
    distances: npt.ArrayLike,
    *,
    correct: npt.ArrayLike | None = None,
    query_names: Sequence[str] | None = None,
    gallery_names: Sequence[str] | None = None,
    pixels: int = 96,
) -> RankedPictures:
    """Shows queries and what `mfg_jax.search` found for them, a line a query.

    Args:
        query_images: Q images, as `Embedder.embed` takes them.
        gallery_images: likewise; only those found are read. A mapping from indices will do.
        indices: `(Q, K)` int, into the gallery; negative leaves a gap.
        distances: `(Q, K)` float.
        correct: `(Q, K)` bool: green border right, red border wrong; None where that is not known.
        query_names: Q names to print below the queries.
        gallery_names: names of the gallery's images, likewise.
        pixels: width of a picture.

    Raises:
        UserError: the numbers of queries, results and names differ, or an image cannot be read.
    """
    index, far = np.asarray(indices), np.asarray(distances, float)
    right = None if correct is None else np.asarray(correct, bool)
    queries = len(query_images)
    if index.ndim != 2 or len(index) != queries or far.shape != index.shape:
        raise UserError(
            f"For {queries} queries, indices and distances have one line each: got {index.shape} and {far.shape}. "
            "One query is indices[:1], distances[:1]."
        )
    if right is not None and right.shape != index.shape:
        raise UserError(f"`correct` has shape {right.shape}, but indices {index.shape}.")
    if query_names is not None and len(query_names) != queries:
        raise UserError(f"There are {len(query_names)} names for {queries} queries.")
    lines = []
    for row in range(queries):
        name = "query" if query_names is None else query_names[row]
        cells = [_cell(query_images[row], name, "#222222", pixels)]
        for rank, place in enumerate(index[row].tolist()):
            if place < 0:
                cells.append("<td></td>")
                continue
            colour, mark = _UNKNOWN, ""
            if right is not None:
                colour, mark = (_RIGHT, "✓ ") if right[row, rank] else (_WRONG, "✗ ")
            text = f"{mark}{far[row, rank]:.2f}"
            if gallery_names is not None:
                text += f"\n{gallery_names[place]}"
            cells.append(_cell(gallery_images[place], text, colour, pixels))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return RankedPictures(f'<div style="overflow-x:auto"><table>{"".join(lines)}</table></div>')


def _cell(image: Image, text: str, colour: str, pixels: int) -> str:
    caption = html.escape(text).replace("\n", "<br>")
    return (
        '<td style="text-align:center;vertical-align:top;padding:3px">'
        f'<img src="{_data_uri(image, pixels)}" width="{pixels}" '
        f'style="border:3px solid {colour};max-width:none" alt="{html.escape(text)}">'
        f'<div style="color:{colour};width:{pixels}px;overflow-wrap:anywhere">{caption}</div></td>'
    )


def _data_uri(image: Image, pixels: int) -> str:
    """The image at a width of `pixels`, its proportions kept, as a JPEG in a URI."""
    if isinstance(image, np.ndarray):
        picture = image
    else:
        try:
            encoded = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
            picture = decode_reduced(encoded, pixels, pixels)
        except (OSError, ValueError) as error:
            name = "" if isinstance(image, bytes) else f" {pathlib.Path(image)}"
            raise UserError(f"The image{name} cannot be shown: {error}") from error
    height = max(1, round(picture.shape[0] * pixels / picture.shape[1]))
    shrinks = picture.shape[1] > pixels
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    picture = cv2.resize(picture, (pixels, height), interpolation=interpolation)
    _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
