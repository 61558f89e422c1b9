"""`python -m mfg_jax export`: the network as one file that runs without this project."""

import argparse

from mfg_jax.commands.embed import add_network, load_network
from mfg_jax.export import FORMATS, export, find_results

DESCRIPTION = """\
Write a trained network to one file, weights and normalisation inside, that runs with JAX and flatbuffers alone.
It is read back and compared with the original first; a JSON description with parity, speed and accuracy goes beside it.
It takes any number of RGB pictures of the network's size as uint8, on a CPU, an NVIDIA GPU or a TPU.

  python -m mfg_jax export --workdir=runs/synthetic --out=synthetic.jaxexport
  python -m mfg_jax export --workdir=runs/synthetic --out=synthetic.onnx --format=onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_network(parser, required=True)
    parser.add_argument("--out", required=True, help="file to write; the description is OUT.json")
    parser.add_argument("--format", choices=FORMATS, default="jax", help="default: %(default)s")


def run(options: argparse.Namespace) -> None:
    """Does it."""
    model = load_network(options.workdir, options.step)
    results = find_results(options.workdir, model.step)
    exported = export(model, options.out, file_format=options.format, results=results)
    parity, speed = exported.description["parity"], exported.description["speed"]
    print(f"{exported.path}: {exported.description['bytes'] / 1e6:,.1f} MB")
    for batch, measured in parity.items():
        if batch.startswith("batch"):
            print(f"  {batch}: differs by {measured['largest_relative_difference']:.1e} of the norm at most")
    for batch, rates in speed.items():
        if batch.startswith("batch"):
            print(
                f"  {batch}: {rates['exported_images_per_second']:,.0f} images/s; the original "
                f"{rates['original_images_per_second']:,.0f}"
            )
    if not results:
        print("  This step was not evaluated, so the description states no accuracy.")
    print(f"{exported.description_path}: the description")
