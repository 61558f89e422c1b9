"""`python -m mfg_jax compare`: do two pictures show the same vehicle?"""

import argparse
import json
import pathlib

import numpy as np

from mfg_jax.commands import calibrate
from mfg_jax.commands.embed import add_network, load_network
from mfg_jax.errors import UserError
from mfg_jax.retrieval.results import write_text

DESCRIPTION = """\
Compare two pictures: their distance, whether it is that of one vehicle, and how often that answer errs. The threshold
comes from the run's calibration (python -m mfg_jax calibrate); without one, only the distance is told.

  python -m mfg_jax compare a.jpg b.jpg --workdir=runs/synthetic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("first", metavar="A", help="a picture")
    parser.add_argument("second", metavar="B", help="another")
    add_network(parser, required=True)
    add_threshold(parser)
    parser.add_argument("--json", help="also write the answer to this file")


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """Declares where a calibrated threshold comes from."""
    parser.add_argument(
        "--false_alarms",
        type=float,
        help="the calibrated threshold at which this share of pairs of two vehicles is called the same, such as 0.01",
    )
    parser.add_argument(
        "--calibration", help=f"file of calibrate (default: {calibrate.FILE_NAME} in the run)"
    )


def run(options: argparse.Namespace) -> None:
    """Does it."""
    model = load_network(options.workdir, options.step)
    first, second = model.embed([options.first, options.second])
    distance = float(np.linalg.norm(first - second))
    answer: dict[str, object] = {"pictures": [options.first, options.second], "distance": distance}
    lines = [options.first, options.second, f"distance {distance:.3f} (0 to 2)"]

    path = pathlib.Path(options.calibration or calibrate.calibration_path(options.workdir))
    try:
        calibration = calibrate.load_calibration(path, model)
    except UserError as error:
        if options.calibration or options.false_alarms is not None or path.exists():
            raise
        lines.append(f"The same vehicle? Not known. {error}")
    else:
        threshold = calibration.threshold(0.01 if options.false_alarms is None else options.false_alarms)
        same = distance < threshold.distance
        beyond = calibration.beyond(distance)
        answer |= {
            "same_vehicle": same,
            "threshold": threshold.distance,
            "false_alarms": threshold.false_alarms,
            "found": threshold.found,
            "nearer_of_two_vehicles": beyond.false_alarms,
            "nearer_of_one_vehicle": beyond.found,
            "calibration": {"file": str(path), "measured_on": calibration.describe()},
        }
        lines += [
            f"{'the same vehicle' if same else 'two vehicles'}, at a threshold of {threshold.distance:.3f}",
            "",
            f"That threshold calls {percent(threshold.false_alarms)} of pairs of two vehicles the same, and finds "
            f"{percent(threshold.found)} of pairs of one vehicle.",
            f"About this distance or nearer are {percent(beyond.false_alarms)} of pairs of two vehicles and "
            f"{percent(beyond.found)} of pairs of one.",
            f"Measured on {calibration.context.get('features', path)}: {calibration.describe()}.",
        ]
    print("\n".join(lines))
    if options.json:
        write_text(options.json, json.dumps(answer, indent=1) + "\n")


def percent(share: float) -> str:
    """A share in percent, with as many digits as small ones need."""
    if share == 0:
        return "0 %"
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.2g} %"
