"""Writes a release of synthetic vehicles in the official on-disk form of a real one.

    python -m tfds_builders.synthetic_vehicles.write_release --format=vric --out=DIR [--scale=1.0] [--seed=0]

The same arguments give the same bytes. Stopped half-way, the same command goes on where it stopped.
"""

import argparse
import sys
import time
from pathlib import Path

from tfds_builders.errors import DatasetError
from tfds_builders.synthetic_vehicles import (
    release_vehicleid,
    release_veri776,
    release_veri_wild,
    release_vric,
)
from tfds_builders.synthetic_vehicles.pictures import default_workers
from tfds_builders.synthetic_vehicles.release_writer import ReleasePlan, write_release

_FORMATS = ("vric", "veri776", "vehicleid", "veri_wild")


def _plan(release_format: str, scale: float, seed: int) -> ReleasePlan:
    if not 0 < scale <= 10:
        raise DatasetError(
            f"--scale is {scale}; expected a number above 0 (1.0 gives the official counts), at most 10."
        )
    if seed < 0:
        raise DatasetError(f"--seed is {seed}; expected a whole number, 0 or more.")
    match release_format:
        case "vric":
            return release_vric.plan(scale, seed)
        case "veri776":
            return release_veri776.plan(scale, seed)
        case "vehicleid":
            return release_vehicleid.plan(scale, seed)
        case "veri_wild":
            return release_veri_wild.plan(scale, seed)
        case _:
            raise DatasetError(f"--format is {release_format!r}; expected one of: {', '.join(_FORMATS)}.")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--format", required=True, help=f"form of the release: {', '.join(_FORMATS)}")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; new, empty or unfinished")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 for the official counts (default)")
    parser.add_argument("--seed", type=int, default=0, help="of vehicles, cameras and lists (default 0)")
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes (default: all cores)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 after an error whose message was printed.
    """
    options = _parse(arguments)
    begin = time.perf_counter()
    try:
        if options.workers < 1:
            raise DatasetError(f"--workers is {options.workers}; expected 1 or more.")
        plan = _plan(options.format, options.scale, options.seed)
        resumed = write_release(plan, options.out, options.workers)
    except DatasetError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on where this one stopped ({options.out}).", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begin
    written = len(plan.pictures) - resumed
    print(
        f"{options.out}: {len(plan.pictures):,} images ({written:,} written now in {seconds:.0f} s"
        + (f", {resumed:,} were there)" if resumed else ")")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
