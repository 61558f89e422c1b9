"""Gathers what a report shows: results, curves, pictures, heat maps. Its only part that touches files and data."""

import base64
import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np

from mfg_jax import checkpoint, inference
from mfg_jax.data import source
from mfg_jax.data.attributes import FIELDS, read_attributes
from mfg_jax.data.images import decode
from mfg_jax.errors import UserError
from mfg_jax.metric_writer import read_metrics
from mfg_jax.retrieval import protocols, report_heat_maps
from mfg_jax.retrieval.ranked_lists import RankedLists, load_ranked_lists
from mfg_jax.retrieval.report_breakdown import CameraPairs, Group, camera_pairs, group_queries
from mfg_jax.retrieval.report_selection import select_queries
from mfg_jax.retrieval.results import Result
from tfds_builders.progress import progress_bar

RESULTS_A_LINE = 10
HEAT_MAP_RESULTS = 3
_BATCH = 32
_STEP = re.compile(r"_step_(\d+)$")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of the page.

    Attributes:
        name: As the dataset names it.
        identity: The vehicle's.
        camera: `source.NO_CAMERA` where none is known.
        attributes: Known ones, such as colour and type.
        jpeg: The image, made small.
        size: Width and height of the small image, pixels.
        heat_maps: Bytes of its maps, one layout after the other; None where it has none.
        kept: By branch, the share of the squared energy that squeeze-and-excitation lets through.
    """

    name: str
    identity: int
    camera: int
    attributes: Mapping[str, str]
    jpeg: bytes
    size: tuple[int, int]
    heat_maps: bytes | None = None
    kept: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Line:
    """One query and its nearest gallery images.

    Attributes:
        query: Key of its picture.
        results: Keys of the results' pictures, in rank order.
        correct: Whether each shows the query's vehicle.
        distance: Of each.
        average_precision: Of the query.
        inverse_negative_penalty: Of the query.
        first_hit: Rank of the nearest right answer, from 1.
        hits: Number of right answers.
        views: Its rank from 0 in each view that shows it.
    """

    query: tuple[str, int]
    results: Sequence[tuple[str, int]]
    correct: Sequence[bool]
    distance: Sequence[float]
    average_precision: float
    inverse_negative_penalty: float
    first_hit: int
    hits: int
    views: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report shows.

    Attributes:
        run: Name of the run's directory.
        name: Of the result's file.
        step: Of the checkpoint that was evaluated.
        result: The result reported on.
        results: By label, all results to show beside each other; `result` is the first.
        metrics: Lines of `metrics.jsonl`.
        groups: By heading, the metrics by what is known of the query.
        pairs: Metrics by camera pair; None without cameras.
        pictures: By (split, place).
        lines: Of the ranked lists, in the order of the query split.
        counted: Number of queries that the lines were chosen from.
        layouts: What the heat maps show; empty without.
        no_heat_maps: Why there are none; None where there are.
    """

    run: str
    name: str
    step: int
    result: Result
    results: Mapping[str, Result]
    metrics: Sequence[Mapping[str, Any]]
    groups: Mapping[str, Sequence[Group]]
    pairs: CameraPairs | None
    pictures: Mapping[tuple[str, int], Picture]
    lines: Sequence[Line]
    counted: int
    layouts: Sequence[report_heat_maps.Layout]
    no_heat_maps: str | None


def gather(
    workdir: pathlib.Path,
    *,
    step: int | None,
    result_path: pathlib.Path | None = None,
    queries: int = 200,
    pixels: int = 128,
    seed: int = 0,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    with_heat_maps: bool = True,
) -> Report:
    """Reads a run's result, its dataset and its checkpoint.

    Args:
        workdir: Of the run.
        step: Which evaluation; None for the last.
        result_path: Which of its results; None for the plainest.
        queries: How many to show at most.
        pixels: Longer side of a picture.
        seed: Of the random view.
        data_dir: Where the prepared dataset lies; None for where it was when the run was evaluated.
        manual_dir: Likewise of the release as downloaded.
        with_heat_maps: Whether to run the network on the queries and their first results.

    Raises:
        UserError: There is no run, no such result, or the dataset is not the one evaluated.
        tfds_builders.errors.DatasetError: The dataset is missing.
    """
    path = result_path or find_result(workdir, step)
    result = Result.from_json(path)
    # The lists are the embeddings' own ranking, so their figures are the plain ones.
    plain = result.plain or result
    lists, fingerprints = load_ranked_lists(path.with_name(f"{path.stem}_lists.npz"))
    builder, query, gallery = _open_splits(result, fingerprints, data_dir, manual_dir)
    draw = plain.draws[0]
    if lists.query.tolist() != draw.query_index.tolist():
        raise UserError(
            f"{path} and the ranked lists beside it are not of one evaluation. Evaluate again (--mode=evaluate)."
        )
    views = select_queries(draw, queries, seed)
    rows = sorted({int(row) for chosen in views.values() for row in chosen})
    ranks = {name: {int(row): rank for rank, row in enumerate(chosen)} for name, chosen in views.items()}
    lines = []
    for row in rows:
        shown = np.flatnonzero(lists.gallery[row, :RESULTS_A_LINE] >= 0)
        lines.append(
            Line(
                query=(query.name, int(lists.query[row])),
                results=[(gallery.name, int(index)) for index in lists.gallery[row, shown]],
                correct=lists.correct[row, shown].tolist(),
                distance=lists.distance[row, shown].tolist(),
                average_precision=float(draw.average_precision[row]),
                inverse_negative_penalty=float(draw.inverse_negative_penalty[row]),
                first_hit=int(draw.first_hit[row]),
                hits=int(draw.hits[row]),
                views={name: of_view[row] for name, of_view in ranks.items() if row in of_view},
            )
        )
    splits = {query.name: query, gallery.name: gallery}
    shown_keys = sorted({key for line in lines for key in (line.query, *line.results)})
    pictures = _read_pictures(builder, splits, shown_keys, pixels)
    layouts: Sequence[report_heat_maps.Layout] = ()
    no_heat_maps: str | None = "they were not asked for"
    if with_heat_maps:
        keys = sorted({key for line in lines for key in (line.query, *line.results[:HEAT_MAP_RESULTS])})
        pictures, layouts, no_heat_maps = _add_heat_maps(
            workdir, result.context["step"], splits, keys, pictures
        )
    has_cameras = bool((query.cameras != source.NO_CAMERA).any())
    labels = (
        {"camera of the query": [str(camera) for camera in query.cameras[lists.query]]} if has_cameras else {}
    )
    attributes = read_attributes(builder, query.name, lists.query.tolist())
    labels |= {name: [one.get(name, "") for one in attributes] for name in FIELDS}
    return Report(
        run=workdir.resolve().name,
        name=path.stem,
        step=int(result.context["step"]),
        result=result,
        results=_results_beside(path, result),
        metrics=read_metrics(workdir),
        groups={heading: group_queries(draw, of_query) for heading, of_query in labels.items()},
        pairs=_camera_pairs(result, lists, query, gallery) if has_cameras else None,
        pictures=pictures,
        lines=lines,
        counted=int(draw.counted.sum()),
        layouts=layouts,
        no_heat_maps=no_heat_maps,
    )


def find_result(workdir: pathlib.Path, step: int | None) -> pathlib.Path:
    """The plainest result of a step, which has the shortest name; of the last evaluated step where it is None.

    Raises:
        UserError: There is no run or no such result; the message tells what there is.
    """
    if not workdir.is_dir():
        raise UserError(
            f"There is no run in {workdir}: no such directory. Give the --workdir of a run, such as runs/synthetic."
        )
    found: dict[int, list[pathlib.Path]] = {}
    for path in sorted((workdir / "results").glob("*.json")):
        match = _STEP.search(path.stem)
        if match:
            found.setdefault(int(match[1]), []).append(path)
    if not found:
        raise UserError(
            f"The run in {workdir} has no results yet: {workdir / 'results'} holds none. An evaluation writes one: "
            f"python -m mfg_jax.main --config=CONFIG --workdir={workdir} --mode=evaluate."
        )
    if step is not None and step not in found:
        raise UserError(
            f"The run in {workdir} has no result of step {step}. Steps evaluated: {', '.join(map(str, sorted(found)))}."
        )
    return min(found[max(found) if step is None else step], key=lambda path: len(path.name))


def _results_beside(path: pathlib.Path, result: Result) -> dict[str, Result]:
    """The result, the others of its step, and that of the untrained network, by label."""
    step = result.context["step"]
    results = {_label(result, result): result}
    others = sorted(path.parent.glob(f"*_step_{step:08d}.json"), key=lambda item: len(item.name))
    untrained = path.with_name(_STEP.sub(f"_step_{0:08d}.json", path.stem))
    for other in [*others, untrained]:
        if other != path and other.exists():
            read = Result.from_json(other)
            results.setdefault(_label(read, result), read)
    return results


def _label(result: Result, beside: Result) -> str:
    """What tells a result from another: step and options, and protocol and seed where they differ."""
    step = result.context["step"]
    parts = [f"step {step:,}" if step else "untrained"]
    parts += [result.protocol] * (result.protocol != beside.protocol)
    parts += [f"seed {result.seed}"] * (result.seed != beside.seed)
    parts += ["flip averaging"] * result.flip
    parts += ["query expansion"] * (result.query_expansion is not None)
    parts += ["re-ranking"] * (result.reranking is not None)
    return ", ".join(parts)


def _open_splits(
    result: Result, fingerprints: Mapping[str, str], data_dir: str | None, manual_dir: str | None
) -> tuple[source.Builder, source.Split, source.Split]:
    """The dataset, and the splits of queries and gallery: one and the same where the protocol draws from one."""
    protocol = protocols.get_protocol(result.protocol)
    data = result.context["config"]["data"]
    builder = source.open_dataset(
        data["dataset"],
        data_dir=data_dir or data["data_dir"],
        manual_dir=manual_dir or data["manual_dir"],
    )
    splits = {name: source.open_split(builder, name) for name in protocol.splits}
    for name, split in splits.items():
        if split.fingerprint() != fingerprints.get(name):
            raise UserError(
                f"The split {name} of {data['dataset']} is not the one that was evaluated: its list of images differs. "
                "Give the --data-dir of that one, or evaluate again (--mode=evaluate)."
            )
    return builder, splits[protocol.query_split], splits[protocol.gallery_split]


def _camera_pairs(
    result: Result, lists: RankedLists, query: source.Split, gallery: source.Split
) -> CameraPairs | None:
    if protocols.get_protocol(result.protocol).draws_gallery:
        return None  # a drawn gallery has one image of each vehicle, of whatever camera
    return camera_pairs(
        lists,
        query.ids,
        query.cameras,
        gallery.ids,
        gallery.cameras,
        exclude_same_camera=result.exclude_same_camera,
        within=RESULTS_A_LINE,
    )


def _read_pictures(
    builder: source.Builder, splits: Mapping[str, source.Split], keys: Sequence[tuple[str, int]], pixels: int
) -> dict[tuple[str, int], Picture]:
    attributes: dict[tuple[str, int], dict[str, str]] = {}
    for name in splits:
        indices = [index for split, index in keys if split == name]
        of_split = read_attributes(builder, name, indices)
        attributes |= {(name, index): one for index, one in zip(indices, of_split, strict=True)}
    pictures = {}
    with progress_bar(len(keys), "reading pictures", delay=1.0, leave=False) as progress:
        for name, index in keys:
            split = splits[name]
            jpeg, size = thumbnail(split.encoded(index), pixels)
            pictures[name, index] = Picture(
                name=split.names[index],
                identity=int(split.ids[index]),
                camera=int(split.cameras[index]),
                attributes=attributes[name, index],
                jpeg=jpeg,
                size=size,
            )
            progress.update(1)
    return pictures


def thumbnail(encoded: bytes, pixels: int) -> tuple[bytes, tuple[int, int]]:
    """Makes an image small, its proportions kept.

    Args:
        encoded: Any format that OpenCV reads.
        pixels: Its longer side is at most this long.

    Returns:
        A JPEG, and its width and height.
    """
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(
            "An image of the dataset cannot be decoded; python -m tfds_builders.check finds which."
        )
    height, width = image.shape[:2]
    scale = min(1.0, pixels / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return jpeg, (image.shape[1], image.shape[0])


def _add_heat_maps(
    workdir: pathlib.Path,
    step: int,
    splits: Mapping[str, source.Split],
    keys: Sequence[tuple[str, int]],
    pictures: Mapping[tuple[str, int], Picture],
) -> tuple[dict[tuple[str, int], Picture], Sequence[report_heat_maps.Layout], str | None]:
    """Runs the network of the evaluated checkpoint on some pictures; without one, says why there are no maps."""
    filled = dict(pictures)
    if not (workdir / "checkpoints" / f"step_{step:08d}").is_dir():
        return filled, (), f"the run keeps no checkpoint of step {step}"
    variables, description, _ = checkpoint.load_variables(workdir / "checkpoints", step)
    model = inference.rebuild_network(description)
    compute = jax.jit(functools.partial(report_heat_maps.heat_maps, model))
    size = description["config"]["data"]["height"], description["config"]["data"]["width"]
    layouts: Sequence[report_heat_maps.Layout] = ()
    with progress_bar(len(keys), "heat maps", delay=1.0, leave=False) as progress:
        for start in range(0, len(keys), _BATCH):
            some = keys[start : start + _BATCH]
            images = np.zeros((_BATCH, *size, 3), np.uint8)
            for row, (name, index) in enumerate(some):
                images[row] = decode(splits[name].encoded(index), *size)
            maps = jax.device_get(compute(variables, images))
            layouts = report_heat_maps.layouts(model, maps)
            for row, key in enumerate(some):
                of_image = {
                    branch: {kind: values[row] for kind, values in kinds.items()}
                    for branch, kinds in maps.items()
                }
                filled[key] = dataclasses.replace(
                    filled[key], heat_maps=_to_bytes(of_image, layouts), kept=_kept(of_image)
                )
            progress.update(len(some))
    return filled, layouts, None


def _to_bytes(
    maps: Mapping[str, Mapping[str, np.ndarray]], layouts: Sequence[report_heat_maps.Layout]
) -> bytes:
    """The maps of an image as uint8; those before and after the gate share a scale, each other has its own."""
    encoded = []
    for layout in layouts:
        kinds = maps[layout.branch]
        values = kinds[layout.kind]
        highest = float((kinds.get("before", values) if layout.kind == "after" else values).max())
        encoded.append(np.round(255 * np.clip(values / max(highest, 1e-12), 0, 1)).astype(np.uint8).tobytes())
    return b"".join(encoded)


def _kept(maps: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    return {
        branch: float((kinds["after"] ** 2).sum() / max(float((kinds["before"] ** 2).sum()), 1e-12))
        for branch, kinds in maps.items()
        if "before" in kinds
    }


def data_uri(jpeg: bytes) -> str:
    """A JPEG as the address of an image inside the page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def picture_pixels(picture: Picture) -> np.ndarray:
    """A picture as `(H, W, 3)` uint8 RGB."""
    image = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(image, np.uint8)[:, :, ::-1]
