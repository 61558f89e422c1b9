"""A picture of the synthetic vehicles: one identity a row, one camera a column.

python -m tfds_builders.synthetic_vehicles.contact_sheet --out=sheet.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tfds_builders.synthetic_vehicles.identity import describe
from tfds_builders.synthetic_vehicles.render import render
from tfds_builders.synthetic_vehicles.shapes import BODY_TYPES


def twins(seed: int, body: str, color: str, count: int) -> list[int]:
    """Returns the first `count` identities of one body type and colour: only fine marks tell them apart."""
    found: list[int] = []
    identity = 0
    while len(found) < count:
        vehicle = describe(seed, identity)
        if (vehicle.body, vehicle.color) == (body, color):
            found.append(identity)
        identity += 1
    return found


def contact_sheet(
    seed: int, identities: Sequence[int], cameras: Sequence[int], size: int, occlusion: str
) -> np.ndarray:
    """Renders each identity before each camera.

    Args:
        seed: Of the world.
        identities: One a row.
        cameras: One a column.
        size: Side of each picture in pixels.
        occlusion: "none", "light" or "heavy".

    Returns:
        (rows * size, columns * size, 3) uint8 RGB.
    """
    return np.vstack(
        [
            np.hstack(
                [render(seed, identity, camera, 0, size=size, occlusion=occlusion) for camera in cameras]
            )
            for identity in identities
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Writes a sheet: four white sedans and three black SUVs, then one vehicle of each body type."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="image file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="side of each picture in pixels")
    parser.add_argument("--occlusion", choices=("none", "light", "heavy"), default="none")
    options = parser.parse_args(arguments)
    identities = twins(options.seed, "sedan", "white", 4) + twins(options.seed, "suv", "black", 3)
    bodies = [describe(options.seed, identity).body for identity in range(1000)]
    identities += [bodies.index(body) for body in BODY_TYPES]
    sheet = contact_sheet(options.seed, identities, range(8), options.size, options.occlusion)
    encoded, data = cv2.imencode(options.out.suffix or ".png", sheet[..., ::-1])
    assert encoded
    options.out.write_bytes(data.tobytes())
    for row, identity in enumerate(identities):
        vehicle = describe(options.seed, identity)
        print(f"row {row + 1}: {vehicle.color} {vehicle.body}; " + "; ".join(map(str, vehicle.marks)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
