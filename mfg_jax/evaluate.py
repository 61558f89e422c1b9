"""Evaluation: embeds the splits a protocol needs, ranks them, and writes the result and pictures."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mfg_jax import checkpoint, embedding, parallel, run_description
from mfg_jax import config as configs
from mfg_jax.data import loader, source
from mfg_jax.data.images import decode
from mfg_jax.models import MFGNet
from mfg_jax.retrieval import (
    Protocol,
    Result,
    RetrievalSet,
    evaluate_protocol,
    format_table,
    get_protocol,
    report,
    search,
)
from mfg_jax.retrieval.protocols import draw_gallery

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
    features = embedding.embed(forward, variables, batches, len(split), mesh, f"Embedding {split.name}")
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
    """Evaluates a network by the configured protocol, and writes `results/step_<step>.json` and the ranked lists.

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
        devices=jax.local_devices(),
        context={"step": step, **run_description.describe(configs.to_json(config))},
    )
    if jax.process_index() == 0:
        result.to_json(result_path(workdir, step))
        draw_ranked_lists(protocol, result, sets, splits, workdir / "pictures" / "ranked_lists.png")
    return result


def result_path(workdir: pathlib.Path, step: int) -> pathlib.Path:
    """Where the result of a step is stored."""
    return workdir / "results" / f"step_{step:08d}.json"


def headline(result: Result) -> dict[str, float]:
    """The figures to log and to choose the best checkpoint by; fractions."""
    figures = {f"CMC@{rank}": float(result.cmc[rank - 1]) for rank in (1, 5, 10) if rank <= len(result.cmc)}
    return {**figures, "mAP": result.mean_ap, "mINP": result.mean_inp}


def evaluate_checkpoint(config: ConfigDict, workdir: pathlib.Path, step: int | None) -> None:
    """Evaluates a checkpoint of `workdir` by the configured protocol and prints the table.

    The network is rebuilt from what the checkpoint says; the configuration decides dataset, protocol and batch size.

    Args:
            config: with the fields of `configs/default.py`.
            workdir: of a run that saved a checkpoint.
            step: which checkpoint; None for the newest.

    Raises:
            UserError: there is no such checkpoint, or the configuration cannot be used.
            tfds_builders.errors.DatasetError: the dataset is missing or malformed.
    """
    mesh = parallel.make_mesh()
    configs.check(config, mesh.size, jax.process_count())
    variables, description, step = checkpoint.load_variables(workdir / "checkpoints", step)
    model = MFGNet(num_identities=description["num_identities"], **description["config"]["model"])
    splits = open_splits(config)
    forward = embedding.make_forward(model, mesh, flip=config.evaluate.flip)
    result = evaluate_variables(
        forward, parallel.replicate(variables, mesh), splits, mesh, config, step=step, workdir=workdir
    )
    if jax.process_index() == 0:
        print(format_table({f"step {step}": result}))
        print(f"Result: {result_path(workdir, step)}")


def open_splits(config: ConfigDict) -> dict[str, source.Split]:
    """Opens the splits the configured protocol needs, building the dataset on first use."""
    builder = source.open_dataset(
        config.data.dataset, data_dir=config.data.data_dir, manual_dir=config.data.manual_dir
    )
    return {name: source.open_split(builder, name) for name in get_protocol(config.evaluate.protocol).splits}


def draw_ranked_lists(
    protocol: Protocol,
    result: Result,
    sets: Mapping[str, RetrievalSet],
    splits: Mapping[str, source.Split],
    path: pathlib.Path,
) -> None:
    """Draws what the first queries of evenly spread difficulty retrieved, without what the protocol leaves out.

    Args:
            protocol: that made the result.
            result: of it; its first draw is shown.
            sets: the embedded splits.
            splits: the images of the same.
            path: of the picture.
    """
    draw = result.draws[0]
    query, query_split = sets[protocol.query_split], splits[protocol.query_split]
    gallery, gallery_split = sets[protocol.gallery_split], splits[protocol.gallery_split]
    gallery_index = (
        draw_gallery(gallery.ids, result.seed, 0)[1] if protocol.draws_gallery else np.arange(len(gallery))
    )
    gallery = gallery.take(gallery_index)

    # From the easiest counted query to the hardest, in equal steps.
    counted = np.flatnonzero(draw.counted)
    by_difficulty = counted[np.argsort(-draw.average_precision[counted], kind="stable")]
    count = min(_PICTURE_QUERIES, len(by_difficulty))
    shown = by_difficulty[np.linspace(0, len(by_difficulty) - 1, count).round().astype(int)]
    queries = draw.query_index[shown]

    # So many that ten are left when the excluded ones are gone.
    depth = min(len(gallery), _PICTURE_RANKS + int(draw.excluded[shown].max(initial=0)))
    nearest, distances = search(query.features[queries], gallery.features, depth, devices=jax.local_devices())
    rows = []
    for row, place in enumerate(queries.tolist()):
        same = gallery.ids[nearest[row]] == query.ids[place]
        excluded = same & (gallery.cameras[nearest[row]] == query.cameras[place]) & result.exclude_same_camera
        kept = np.flatnonzero(~excluded)[:_PICTURE_RANKS]
        rows.append((place, nearest[row][kept], distances[row][kept], same[kept]))
    raise NotImplementedError(report, decode, rows, query_split, gallery_split, path)
