"""`python -m mfg_jax search`: the gallery pictures nearest to each query picture."""

import argparse
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mfg_jax.commands import calibrate
from mfg_jax.commands.compare import add_threshold, percent
from mfg_jax.commands.embed import add_label_folders, add_network, add_reading, embed_pictures, load_network
from mfg_jax.commands.pictures import Pictures, find_pictures, picture_reader
from mfg_jax.data.images import decode_reduced
from mfg_jax.errors import UserError
from mfg_jax.inference import Embedder
from mfg_jax.retrieval import NamedFeatures, load_features, report_figures, search
from mfg_jax.retrieval.calibration import NO_CAMERA, Threshold
from mfg_jax.retrieval.results import write_text

_PICTURE_PIXELS = 256
_PICTURE_QUERIES = 20

DESCRIPTION = """\
Search embedded pictures for those nearest to query pictures: a table, and on request JSON and a picture of the ranking.
The network is the one that embedded the gallery.

  python -m mfg_jax search query.jpg --gallery=gallery.parquet --picture=result.png
  python -m mfg_jax search queries/ --gallery=gallery.parquet --k=20 --json=result.json
  python -m mfg_jax search query.jpg --gallery=gallery.parquet --false_alarms=0.01
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "sources", nargs="+", metavar="PICTURES", help="query pictures: as in embed, but for --dataset"
    )
    parser.add_argument("--gallery", required=True, help="features file, from embed")
    parser.add_argument("--k", type=int, default=10, help="results of each query (default: %(default)s)")
    parser.add_argument("--threshold", type=float, help="leave out results at this distance or farther")
    add_threshold(parser)
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument(
        "--picture", help="also draw the ranking, as .png, .pdf or .svg: green border right, red border wrong"
    )
    parser.add_argument("--gallery_root", help="folder of the gallery's pictures, where they were moved")
    add_label_folders(parser)
    add_network(parser, required=False, default=" (default: the one the gallery names)")
    add_reading(parser)


def run(options: argparse.Namespace) -> None:
    """Does it."""
    gallery = load_features(options.gallery)
    if options.threshold is not None and options.false_alarms is not None:
        raise UserError("Give --threshold or --false_alarms, not both.")
    network = gallery.context.get("network", {})
    workdir = options.workdir or network.get("workdir")
    if workdir is None:
        raise UserError(
            f"{options.gallery} does not name its network: give --workdir, of the run that embedded it."
        )
    if options.workdir is None and not pathlib.Path(workdir).exists():
        raise UserError(
            f"{options.gallery} was embedded by the network of {workdir}, which is not there any more: give --workdir, "
            "the folder that it is in now."
        )
    pictures = find_pictures(options.sources, label_folders=options.label_folders)
    # The newest checkpoint may be newer than the gallery.
    same_run = options.workdir is None
    model = load_network(workdir, network.get("step") if same_run and options.step is None else options.step)
    calibrate.check_same_network(gallery, model, options.gallery)
    threshold = _threshold(options, workdir, model)
    query = embed_pictures(
        model, pictures, {"workdir": workdir}, skip_bad=options.skip_bad, batch_size=options.batch_size
    )
    own = _own_rows(query, gallery, options.gallery_root)
    index, distance = _nearest(query, gallery, options.k, own)
    wanted = distance < (np.inf if threshold is None else threshold.distance)

    correct = _correct(query, gallery, index)
    for row, name in enumerate(query.names):
        print(
            _table(
                name,
                gallery,
                index[row],
                distance[row],
                wanted[row],
                None if correct is None else correct[row],
            )
        )
    if (own >= 0).any():
        print(f"Queries that are in the gallery, left out of their own results: {(own >= 0).sum():,}.")
    if threshold is not None:
        print(f"Shown is what is nearer than {threshold.distance:.3f}{_rates(threshold)}.")
    if options.json:
        results = _to_json(options.gallery, query, gallery, index, distance, wanted, correct)
        write_text(options.json, json.dumps(results, indent=1) + "\n")
        print(f"Results: {options.json}")
    if options.picture:
        read = picture_reader(gallery, options.gallery_root)
        _draw(options.picture, pictures, query, read, index, distance, wanted, correct)
        print(f"Picture: {options.picture}")


def _own_rows(query: NamedFeatures, gallery: NamedFeatures, gallery_root: str | None) -> np.ndarray:
    """`(Q,)` int64: where in the gallery the query's own file is; -1 where it is not there."""
    root = gallery_root or gallery.context.get("source", {}).get("root")
    if root is None:
        return np.full(len(query.names), -1)
    places = {os.path.abspath(os.path.join(root, name)): row for row, name in enumerate(gallery.names)}
    queries = query.context["source"]["root"]
    return np.array([places.get(os.path.abspath(os.path.join(queries, name)), -1) for name in query.names])


def _nearest(
    query: NamedFeatures, gallery: NamedFeatures, k: int, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query, without its own file: `(Q, k)` rows and distances."""
    more = int((own >= 0).any())
    size = len(gallery.names) - more
    if size == 0:
        raise UserError("The gallery holds nothing but the query itself.")
    found = min(k, size) if k > 0 else k  # which `search` refuses
    index, distance = search(query.features.features, gallery.features.features, found + more)
    kept = np.argsort(index == own[:, None], axis=1, kind="stable")[:, :found]
    return np.take_along_axis(index, kept, axis=1), np.take_along_axis(distance, kept, axis=1)


def _threshold(options: argparse.Namespace, workdir: str, model: Embedder) -> Threshold | None:
    if options.false_alarms is not None:
        path = options.calibration or calibrate.calibration_path(workdir)
        return calibrate.load_calibration(path, model).threshold(options.false_alarms)
    if options.calibration:
        raise UserError("--calibration goes with --false_alarms.")
    return None if options.threshold is None else Threshold(options.threshold, np.nan, np.nan)


def _rates(threshold: Threshold) -> str:
    if np.isnan(threshold.false_alarms):
        return ""
    return (
        f", as are {percent(threshold.false_alarms)} of the calibration's pairs of two vehicles and "
        f"{percent(threshold.found)} of its pairs of one"
    )


def _correct(query: NamedFeatures, gallery: NamedFeatures, index: np.ndarray) -> np.ndarray | None:
    """`(Q, k)` bool: whether a result shows the query's vehicle; None where that is not known."""
    if not query.context["labelled"] or not gallery.context.get("labelled", True):
        return None
    # Names and numbers of vehicles are compared as text: numbers given to names differ from file to file.
    found = np.array([_identity(gallery, row) for row in range(len(gallery.names))])[index]
    return found == np.array([_identity(query, row) for row in range(len(query.names))])[:, None]


def _identity(features: NamedFeatures, row: int) -> str:
    number = str(features.features.ids[row])
    return features.context.get("identities", {}).get(number, number)


def _table(
    name: str,
    gallery: NamedFeatures,
    index: np.ndarray,
    distance: np.ndarray,
    wanted: np.ndarray,
    correct: np.ndarray | None,
) -> str:
    """What was found for one query."""
    lines = [name]
    if not wanted.any():
        lines.append(f"  nothing; the nearest is {gallery.names[index[0]]}, at {distance[0]:.3f}")
    rows = [["rank", "distance", "vehicle", "camera", "picture"]]
    for rank, (row, far) in enumerate(zip(index[wanted].tolist(), distance[wanted].tolist(), strict=True), 1):
        camera = gallery.features.cameras[row]
        mark = "" if correct is None else " ✓" if correct[rank - 1] else " ✗"
        rows.append(
            [
                str(rank),
                f"{far:.3f}{mark}",
                _identity(gallery, row) if gallery.context.get("labelled", True) else "",
                "" if camera == NO_CAMERA else str(camera),
                gallery.names[row],
            ]
        )
    known = [place for place in range(5) if any(row[place] for row in rows[1:])]
    widths = [max(len(row[place]) for row in rows) for place in known]
    for row in rows if len(rows) > 1 else []:
        cells = [
            row[place].rjust(width) if place < 2 else row[place].ljust(width)
            for place, width in zip(known, widths, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _to_json(
    path: str,
    query: NamedFeatures,
    gallery: NamedFeatures,
    index: np.ndarray,
    distance: np.ndarray,
    wanted: np.ndarray,
    correct: np.ndarray | None,
) -> dict[str, Any]:
    """All of it, as JSON values."""
    labelled = gallery.context.get("labelled", True)

    def result(row: int, rank: int) -> dict[str, Any]:
        place = int(index[row, rank])
        camera = int(gallery.features.cameras[place])
        return {
            "rank": rank + 1,
            "row": place,
            "name": gallery.names[place],
            "distance": float(distance[row, rank]),
            "vehicle": _identity(gallery, place) if labelled else None,
            "camera": None if camera == NO_CAMERA else camera,
            "correct": None if correct is None else bool(correct[row, rank]),
        }

    return {
        "gallery": path,
        "network": query.context["network"],
        "queries": [
            {"name": name, "results": [result(row, rank) for rank in np.flatnonzero(wanted[row]).tolist()]}
            for row, name in enumerate(query.names)
        ],
    }


def _draw(
    path: str,
    pictures: Pictures,
    query: NamedFeatures,
    read: Callable[[int], bytes | pathlib.Path],
    index: np.ndarray,
    distance: np.ndarray,
    wanted: np.ndarray,
    correct: np.ndarray | None,
) -> None:
    """Draws the ranking of the first queries."""
    images = dict(zip(pictures.names, pictures.images, strict=True))
    shown = min(len(query.names), _PICTURE_QUERIES)

    def picture(image: bytes | pathlib.Path) -> np.ndarray:
        try:
            encoded = image if isinstance(image, bytes) else image.read_bytes()
            return decode_reduced(encoded, _PICTURE_PIXELS, _PICTURE_PIXELS)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            name = "" if isinstance(image, bytes) else f" {image}"
            raise UserError(
                f"The picture{name} cannot be drawn: {reason}. Where the gallery's pictures were moved, --gallery_root "
                "says where to."
            ) from error

    more = f"; the first {shown} of {len(query.names):,} queries" if shown < len(query.names) else ""
    report_figures.ranked_lists_figure(
        path,
        [picture(images[name]) for name in query.names[:shown]],
        [
            [picture(read(place)) if there else None for place, there in zip(places, kept, strict=True)]
            for places, kept in zip(index[:shown].tolist(), wanted[:shown].tolist(), strict=True)
        ],
        None if correct is None else correct[:shown],
        distance[:shown],
        title=f"The nearest of each query, with its distance{more}",
    )
