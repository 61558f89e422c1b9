"""Evaluation: embeds the splits a protocol needs, ranks them, and writes the result and pictures."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mfg_jax import checkpoint, embedding, inference, parallel, projector, run_description
from mfg_jax import config as configs
from mfg_jax.data import loader, source
from mfg_jax.data.images import decode
from mfg_jax.metric_writer import read_metrics
from mfg_jax.retrieval import (
    Protocol,
    QueryExpansion,
    RankedLists,
    Reranking,
    Result,
    RetrievalSet,
    evaluate_protocol,
    format_intervals,
    format_table,
    get_protocol,
    report_figures,
)
from mfg_jax.retrieval.protocols import draw_gallery
from mfg_jax.retrieval.ranked_lists import evenly_by_average_precision, ranked_lists, save_ranked_lists
from mfg_jax.retrieval.ranking import QueryShare
from mfg_jax.retrieval.results import write_text

_LIST_LENGTH = 20
_PICTURE_QUERIES = 8
_PICTURE_RANKS = 10
_PICTURE_PIXELS = 128


def embed_split(
    forward: embedding.Forward,
    variables: embedding.Variables,
    split: source.Split,
    mesh: Mesh,
    *,
    batch_size: int,
    height: int,
    width: int,
    threads: int,
    workers: int,
) -> RetrievalSet:
    """Embeds all images of a split, in order, each process decoding its share.

    Args:
        forward: from `mfg_jax.embedding.make_forward`, on the same mesh.
        variables: the network's.
        split: the images.
        mesh: the devices.
        batch_size: images at once, over all devices.
        height: of the images, in pixels.
        width: of the images, in pixels.
        threads: decoding threads.
        workers: decoding processes; 0 to decode in this one.

    Returns:
        The embeddings with the split's identities and cameras; the same in every process.
    """
    batches = loader.image_batches(
        split,
        batch_size=batch_size,
        height=height,
        width=width,
        process=jax.process_index(),
        processes=jax.process_count(),
        threads=threads,
        workers=workers,
    )
    features = embedding.embed(forward, variables, batches, len(split), mesh, f"embedding {split.name}")
    return RetrievalSet(features, split.ids, split.cameras)


def evaluate_variables(
    forward: embedding.Forward,
    variables: embedding.Variables,
    splits: Mapping[str, source.Split],
    mesh: Mesh,
    config: ConfigDict,
    *,
    step: int,
    workdir: pathlib.Path,
) -> Result:
    """Evaluates a network by the configured protocol, and writes the result and the ranked lists.

    Args:
        forward: from `mfg_jax.embedding.make_forward`, on the same mesh.
        variables: the network's.
        splits: by name, those the protocol needs.
        mesh: the devices.
        config: `evaluate` and `data` are read, and all of it is stored with the result.
        step: optimizer steps that led to `variables`.
        workdir: where the result goes; process 0 writes.
    """
    protocol = get_protocol(config.evaluate.protocol)
    sets = {
        name: embed_split(
            forward,
            variables,
            split,
            mesh,
            batch_size=config.evaluate.batch_size,
            height=config.data.height,
            width=config.data.width,
            threads=config.data.threads,
            workers=config.data.workers,
        )
        for name, split in splits.items()
    }
    result = evaluate_protocol(
        protocol,
        sets,
        seed=config.evaluate.seed,
        flip=config.evaluate.flip,
        reranking=Reranking() if config.evaluate.reranking else None,
        query_expansion=QueryExpansion() if config.evaluate.query_expansion else None,
        devices=jax.local_devices(),
        share=QueryShare(jax.process_index(), jax.process_count(), parallel.gather_from_processes),
        context={"step": step, **run_description.describe(configs.to_json(config))},
    )
    if jax.process_index() == 0:
        name = result_name(config, step)
        result.to_json(result_path(workdir, config, step))
        # The lists are the embeddings' own ranking, so the picture's figures are the plain ones.
        plain = result.plain or result
        lists = rank_first_draw(protocol, plain, sets)
        save_ranked_lists(
            workdir / "results" / f"{name}_lists.npz",
            lists,
            {split.name: split.fingerprint() for split in splits.values()},
        )
        draw_ranked_lists(protocol, plain, lists, splits, picture_path(workdir, config, step))
        if config.evaluate.projector_images:
            save_projector(
                workdir / "tensorboard", name, protocol, sets, splits, config.evaluate.projector_images
            )
    return result


def result_name(config: ConfigDict, step: int) -> str:
    """What the result of a step is called: all that tells it from others of the same run."""
    protocol = get_protocol(config.evaluate.protocol)
    seed = f"_seed{config.evaluate.seed}" if protocol.draws_gallery else ""
    options = "".join(
        f"_{option}" for option in ("flip", "query_expansion", "reranking") if config.evaluate[option]
    )
    return f"{protocol.name}{seed}{options}_step_{step:08d}"


def result_path(workdir: pathlib.Path, config: ConfigDict, step: int) -> pathlib.Path:
    """Where the result of a step goes."""
    return workdir / "results" / f"{result_name(config, step)}.json"


def picture_path(workdir: pathlib.Path, config: ConfigDict, step: int) -> pathlib.Path:
    """Where the picture of a step's ranked lists goes."""
    return workdir / "pictures" / f"ranked_lists_{result_name(config, step)}.png"


def headline(result: Result) -> dict[str, float]:
    """The figures to log and to choose the best checkpoint by; fractions."""
    figures = {f"CMC@{rank}": float(result.cmc[rank - 1]) for rank in (1, 5, 10) if rank <= len(result.cmc)}
    return {**figures, "mAP": result.mean_ap, "mINP": result.mean_inp}


def evaluate_checkpoint(config: ConfigDict, workdir: pathlib.Path, step: int | None) -> None:
    """Evaluates a checkpoint of `workdir` by the configured protocol and prints the table.

    The network, its image size and all else that made it are those stored in the checkpoint.

    Args:
        config: its dataset with directories and workers, and its `evaluate` fields, are read.
        workdir: of a run that saved a checkpoint.
        step: which checkpoint; None for the newest.

    Raises:
        UserError: there is no such checkpoint, or the configuration cannot be used.
        tfds_builders.errors.DatasetError: the dataset is missing or malformed.
    """
    mesh = parallel.make_mesh()
    configs.check_evaluation(config, mesh.size, jax.process_count())
    variables, description, step = checkpoint.load_variables(workdir / "checkpoints", step)
    trained = ConfigDict(description["config"])
    with trained.ignore_type():  # a directory may be None in one and a path in the other
        trained.evaluate = config.evaluate
        for field in ("dataset", "data_dir", "manual_dir", "threads", "workers"):
            trained.data[field] = config.data[field]
    config = trained
    model = inference.rebuild_network(description)
    splits = open_splits(open_dataset(config), config)
    forward = embedding.make_forward(model, mesh, flip=config.evaluate.flip)
    result = evaluate_variables(
        forward, parallel.replicate(variables, mesh), splits, mesh, config, step=step, workdir=workdir
    )
    if jax.process_index() == 0:
        results = {f"step {step}": result}
        print(f"{format_table(results)}\n\n{format_intervals(results)}")
        print(f"Result: {result_path(workdir, config, step)}")


def open_dataset(config: ConfigDict) -> source.Builder:
    """Opens the configured dataset, building it on first use: once, where several processes share a disk."""
    with parallel.first_process_ahead():
        return source.open_dataset(
            config.data.dataset, data_dir=config.data.data_dir, manual_dir=config.data.manual_dir
        )


def open_splits(builder: source.Builder, config: ConfigDict) -> dict[str, source.Split]:
    """Opens the splits the configured protocol needs."""
    return {name: source.open_split(builder, name) for name in get_protocol(config.evaluate.protocol).splits}


def rank_first_draw(protocol: Protocol, result: Result, sets: Mapping[str, RetrievalSet]) -> RankedLists:
    """What every query of the first draw retrieved, without what the protocol leaves out.

    Args:
        protocol: that made the result.
        result: of it.
        sets: the embedded splits.

    Returns:
        Lists of places in the protocol's splits, one for each query of the draw, in its order.
    """
    query, gallery = sets[protocol.query_split], sets[protocol.gallery_split]
    places = np.arange(len(gallery))
    if protocol.draws_gallery:
        places = draw_gallery(gallery.ids, result.seed, 0)[1]
    lists = ranked_lists(
        query,
        gallery.take(places),
        result.draws[0].query_index,
        _LIST_LENGTH,
        result.exclude_same_camera,
        devices=jax.local_devices(),
    )
    return dataclasses.replace(lists, gallery=np.where(lists.gallery >= 0, places[lists.gallery], -1))


def draw_ranked_lists(
    protocol: Protocol,
    result: Result,
    lists: RankedLists,
    splits: Mapping[str, source.Split],
    path: pathlib.Path,
) -> None:
    """Draws what queries from the easiest to the hardest retrieved.

    Args:
        protocol: that made the result.
        result: of it.
        lists: from `rank_first_draw`.
        splits: the images.
        path: of the picture.
    """
    query, gallery = splits[protocol.query_split], splits[protocol.gallery_split]
    precision = result.draws[0].average_precision
    shown = evenly_by_average_precision(precision, _PICTURE_QUERIES)
    results = lists.gallery[shown, :_PICTURE_RANKS]

    def picture(split: source.Split, index: int) -> np.ndarray:
        return decode(split.encoded(index), _PICTURE_PIXELS, _PICTURE_PIXELS)

    report_figures.ranked_lists_figure(
        path,
        [picture(query, index) for index in lists.query[shown].tolist()],
        [[picture(gallery, index) if index >= 0 else None for index in row] for row in results.tolist()],
        lists.correct[shown, :_PICTURE_RANKS],
        lists.distance[shown, :_PICTURE_RANKS],
        query_cameras=query.cameras[lists.query[shown]],
        result_cameras=gallery.cameras[results],
        average_precision=precision[shown],
        title=f"{protocol.name}, step {result.context['step']}: {len(shown)} queries from the easiest to the hardest",
    )


def save_projector(
    directory: pathlib.Path,
    name: str,
    protocol: Protocol,
    sets: Mapping[str, RetrievalSet],
    splits: Mapping[str, source.Split],
    limit: int,
) -> None:
    """Writes the embeddings of whole identities, queries and gallery, for TensorBoard's projector.

    Args:
        directory: of TensorBoard's events.
        name: of the result.
        protocol: that made it.
        sets: the embedded splits, by name.
        splits: their images.
        limit: how many images at most.
    """
    ids = np.concatenate([sets[split].ids for split in protocol.splits])
    chosen = projector.choose_images(ids, sets[protocol.query_split].ids, limit)
    begins = np.cumsum([0, *(len(sets[split]) for split in protocol.splits)])
    features: list[np.ndarray] = []
    thumbnails: list[np.ndarray] = []
    labels: dict[str, list[str | int]] = {"name": [], "id": [], "camera": [], "split": []}
    for begin, end, key in zip(begins, begins[1:], protocol.splits, strict=False):
        places = chosen[(chosen >= begin) & (chosen < end)] - begin
        split = splits[key]
        features.append(sets[key].features[places])
        for place in places.tolist():
            thumbnails.append(
                decode(split.encoded(place), projector.THUMBNAIL_PIXELS, projector.THUMBNAIL_PIXELS)
            )
            camera = int(split.cameras[place])
            labels["name"].append(split.names[place])
            labels["id"].append(int(split.ids[place]))
            labels["camera"].append("" if camera == source.NO_CAMERA else camera)
            labels["split"].append(key)
    projector.write_projector(directory, name, np.concatenate(features), labels, thumbnails)


def summarise(workdir: pathlib.Path, config: ConfigDict, last_step: int) -> str:
    """Draws the training curves, and makes the final table, with the untrained network's figures where known.

    Args:
        workdir: of a run that was evaluated at `last_step`.
        config: of that run.
        last_step: of the training.

    Returns:
        The table, which is also written to `results/table.txt`.
    """
    results = {}
    for label, step in (("untrained", 0), (f"trained, step {last_step}", last_step)):
        path = result_path(workdir, config, step)
        if path.exists():
            results[label] = Result.from_json(path)
    table = format_table(results)
    table += "\n\n" + format_intervals(results)
    write_text(workdir / "results" / "table.txt", table + "\n")

    lines = read_metrics(workdir)
    training = [line for line in lines if line.get("loss") is not None]
    evaluations = [line for line in lines if "evaluation/mAP" in line]
    names = ("mAP", "mINP", "CMC@1")
    report_figures.curves_figure(
        workdir / "pictures" / "curves.png",
        [line["step"] for line in training],
        [line["loss"] for line in training],
        [line["learning_rate"] for line in training],
        {
            name: (
                [line["step"] for line in evaluations],
                [line[f"evaluation/{name}"] for line in evaluations],
            )
            for name in names
        },
    )
    return table
