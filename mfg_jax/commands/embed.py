"""`python -m mfg_jax embed`: pictures to one features file."""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mfg_jax.commands.pictures import Pictures, find_pictures, split_pictures
from mfg_jax.errors import UserError
from mfg_jax.inference import Embedder, load
from mfg_jax.retrieval import NamedFeatures, RetrievalSet, save_features

_SHOWN_PROBLEMS = 10

DESCRIPTION = """\
Embed pictures with a trained network, and write one features file: a name, identity, camera and embedding for each.

  python -m mfg_jax embed gallery/ --workdir=runs/synthetic --out=gallery.parquet
  python -m mfg_jax embed 'gate/*.jpg' yard/ --workdir=runs/synthetic --out=gallery.parquet
  python -m mfg_jax embed vehicles/ --label_folders --workdir=runs/synthetic --out=gallery.parquet
  python -m mfg_jax embed manifest.csv --workdir=runs/synthetic --out=gallery.npz
  python -m mfg_jax embed --dataset=synthetic_vehicles --split=gallery --workdir=runs/synthetic --out=gallery.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="PICTURES",
        help="folders (searched with all below), patterns or picture files; or one manifest, .csv or .parquet, with "
        "the column image (named from the manifest's folder), and id and camera where known",
    )
    parser.add_argument("--dataset", help="embed a split of this dataset instead, such as vric")
    parser.add_argument("--split", help="of the dataset, such as gallery")
    parser.add_argument("--data_dir", help="where prepared datasets are; by default TFDS's own directory")
    parser.add_argument("--out", required=True, help="features file to write: .parquet or .npz")
    add_label_folders(parser)
    add_network(parser, required=True)
    add_reading(parser)


def add_network(parser: argparse.ArgumentParser, *, required: bool, default: str = "") -> None:
    """Declares the options that name the network."""
    parser.add_argument(
        "--workdir",
        required=required,
        help="of the run that trained the network, such as runs/synthetic, or a .safetensors file exported from one"
        + default,
    )
    parser.add_argument("--step", type=int, help="which checkpoint; by default the newest")


def add_label_folders(parser: argparse.ArgumentParser) -> None:
    """Declares how folders are read."""
    parser.add_argument(
        "--label_folders", action="store_true", help="the folder that a picture lies in names its vehicle"
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Declares how pictures are read."""
    parser.add_argument(
        "--skip_bad", action="store_true", help="leave out pictures that cannot be read, naming them"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="pictures at once (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Does it."""
    if options.dataset:
        if options.sources or options.label_folders or not options.split:
            raise UserError("With --dataset goes --split, and no pictures and no --label_folders.")
        pictures = split_pictures(options.dataset, options.split, options.data_dir)
    else:
        if options.split or options.data_dir:
            raise UserError("--split and --data_dir go with --dataset.")
        if not options.sources:
            raise UserError("Say what to embed: pictures, a folder, a manifest, or --dataset and --split.")
        pictures = find_pictures(options.sources, label_folders=options.label_folders)
    out = pathlib.Path(options.out)
    if out.suffix not in (".parquet", ".npz"):
        raise UserError(f"{out}: a features file ends in .parquet or .npz.")
    model = load_network(options.workdir, options.step)
    embedded = embed_pictures(
        model,
        pictures,
        {"workdir": str(pathlib.Path(options.workdir).absolute())},
        skip_bad=options.skip_bad,
        batch_size=options.batch_size,
    )
    save_features(out, embedded.features, embedded.names, embedded.context)
    left_out = len(pictures) - len(embedded.names)
    labels = f", {len(np.unique(embedded.features.ids)):,} vehicles" if pictures.labelled else ""
    print(
        f"{out}: {len(embedded.names):,} pictures{labels}, embeddings of {embedded.features.features.shape[1]:,} "
        f"numbers{f'; {left_out:,} left out' if left_out else ''}."
    )


def load_network(workdir: str | pathlib.Path, step: int | None) -> Embedder:
    """Loads a network, telling which."""
    model = load(workdir, step)
    height, width = model.image_size
    print(
        f"Network of {workdir}, step {model.step}: {height} x {width} pixels, {model.embedding_size} numbers.",
        file=sys.stderr,
    )
    return model


def embed_pictures(
    model: Embedder, pictures: Pictures, network: Mapping[str, Any], *, skip_bad: bool, batch_size: int
) -> NamedFeatures:
    """Embeds pictures, with progress.

    Args:
        model: the network.
        pictures: which.
        network: what to keep about it besides step and fingerprint, as JSON.
        skip_bad: leave out what cannot be read, naming it on standard error.
        batch_size: pictures at once.

    Returns:
        The features, with a context that says where they come from.

    Raises:
        UserError: a picture cannot be read and `skip_bad` is false, or none can.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}; it has to be at least 1.")
    if skip_bad:
        read = model.embed_readable(pictures.images, batch_size)
        features, index = read.features, read.index
        for number, (row, problem) in enumerate(read.problems.items()):
            if number == _SHOWN_PROBLEMS:
                print(f"... and {len(read.problems) - number:,} more.", file=sys.stderr)
                break
            print(f"left out: {pictures.names[row]}: {problem}.", file=sys.stderr)
        if not len(index):
            raise UserError(f"None of the {len(pictures):,} pictures can be read.")
    else:
        try:
            features = model.embed(pictures.images, batch_size)
        except UserError as error:
            raise UserError(
                f"{error} Mend or remove it, or leave such pictures out with --skip_bad."
            ) from error
        index = np.arange(len(pictures))
    context = {
        "network": {
            **network,
            "step": model.step,
            "fingerprint": model.fingerprint,
            "dataset": model.config["data"]["dataset"],
        },
        "source": dict(pictures.source),
        "labelled": pictures.labelled,
        "identities": dict(pictures.identities),
    }
    return NamedFeatures(
        RetrievalSet(features, pictures.ids[index], pictures.cameras[index]),
        [pictures.names[row] for row in index.tolist()],
        context,
    )
