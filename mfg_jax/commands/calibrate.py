"""`python -m mfg_jax calibrate`: from a labelled features file to distance thresholds and their error rates."""

import argparse
import pathlib

from mfg_jax.commands.embed import add_network, load_network
from mfg_jax.errors import UserError
from mfg_jax.inference import Embedder
from mfg_jax.retrieval import NamedFeatures, load_features
from mfg_jax.retrieval.calibration import Calibration, calibrate

FILE_NAME = "calibration.json"
_SHOWN_RATES = (1e-4, 1e-3, 1e-2, 1e-1)

DESCRIPTION = """\
Measure, on embedded pictures of known vehicles, how often pairs of one vehicle and of two lie nearer than a distance.
The result goes into the run; compare and search take thresholds from it. Use vehicles that the network was not trained
on: on those it was trained on, too few errors are found.

  python -m mfg_jax calibrate gallery.parquet --workdir=runs/synthetic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("features", metavar="FEATURES", help="features file with identities, from embed")
    add_network(parser, required=True)
    parser.add_argument("--out", help=f"file to write (default: {FILE_NAME} in the run)")


def run(options: argparse.Namespace) -> None:
    """Does it."""
    features = load_features(options.features)
    if not features.context.get("labelled", True):
        raise UserError(
            f"{options.features} does not say which vehicle is on which picture. Embed with --label_folders, from a "
            "manifest with the column id, or from a dataset."
        )
    model = load_network(options.workdir, options.step)
    check_same_network(features, model, options.features)
    calibration = calibrate(
        features.features,
        {
            "features": pathlib.Path(options.features).name,
            "source": features.context.get("source", {}),
            "step": model.step,
            "fingerprint": model.fingerprint,
        },
    )
    out = pathlib.Path(options.out or calibration_path(options.workdir))
    calibration.to_json(out)
    print(f"{out}, on {calibration.describe()}.\n")
    print(f"{'threshold':>9}  {'of two vehicles,':>18}  {'of one vehicle,':>18}")
    print(f"{'':>9}  {'called the same':>18}  {'called the same':>18}")
    for rate in _SHOWN_RATES:
        if rate * calibration.other_pairs >= 1:
            threshold = calibration.threshold(rate)
            print(
                f"{threshold.distance:9.3f}  {100 * threshold.false_alarms:16.3f} %  {100 * threshold.found:16.1f} %"
            )
    split = features.context.get("source", {}).get("split")
    if split == "train":
        print("\nThese vehicles are those of the training split: on others, expect more errors.")


def calibration_path(workdir: str | pathlib.Path) -> pathlib.Path:
    """Where a network's calibration is: in its run, or beside its file."""
    path = pathlib.Path(workdir)
    return path.with_name(f"{path.name}.{FILE_NAME}") if path.suffix == ".safetensors" else path / FILE_NAME


def check_same_network(features: NamedFeatures, model: Embedder, path: str) -> None:
    """Checks that embeddings are of a network; those of files that do not tell are taken for it.

    Raises:
        UserError: they are of another.
    """
    network = features.context.get("network", {})
    fingerprint = network.get("fingerprint", model.fingerprint)
    if fingerprint != model.fingerprint:
        raise UserError(
            f"{path} was embedded by another network (step {network.get('step')} of {network.get('workdir')}, "
            f"fingerprint {fingerprint}) than the one loaded (step {model.step}, {model.fingerprint}); distances "
            "between the two mean nothing. Load that one (--workdir, --step), or embed the pictures anew."
        )


def load_calibration(path: str | pathlib.Path, model: Embedder) -> Calibration:
    """Reads the calibration of a network.

    Raises:
        UserError: there is none, or it is of another network.
    """
    if not pathlib.Path(path).exists():
        raise UserError(
            f"There is no calibration {path}. Make it from labelled pictures of vehicles that the network was not "
            "trained on: python -m mfg_jax embed, then python -m mfg_jax calibrate (see their --help)."
        )
    calibration = Calibration.from_json(path)
    if calibration.context.get("fingerprint", model.fingerprint) != model.fingerprint:
        raise UserError(
            f"The calibration {path} is of another network (step {calibration.context.get('step')}) than the one "
            f"loaded (step {model.step}). Calibrate again, with features that this one embedded."
        )
    return calibration
