"""Published figures, and a table that sets one's own results beside them.

    python -m mfg_jax.retrieval.published runs/veri776 runs/vehicleid runs/vric

Each argument is the work directory of a run, or a result file of an evaluation. Prints Markdown.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from mfg_jax.errors import UserError
from mfg_jax.retrieval.results import Result

# The columns: a protocol and the figures that its literature gives.
_COLUMNS = {
    "VeRi-776 Rank-1 / mAP / mINP": ("veri776", ("cmc", "mean_ap", "mean_inp")),
    "VehicleID Rank-1 small": ("vehicleid-800", ("cmc",)),
    "medium": ("vehicleid-1600", ("cmc",)),
    "large": ("vehicleid-2400", ("cmc",)),
    "VRIC Rank-1 / mAP": ("vric", ("cmc", "mean_ap")),
}


@dataclasses.dataclass(frozen=True)
class Published:
    """A method's published figures, percent, without re-ranking; None where none was published.

    Attributes:
        method: name, with its backbone where it has several.
        figures: by protocol, as many as the protocol's column shows.
    """

    method: str
    figures: dict[str, tuple[float | None, ...]]


PUBLISHED = (
    Published("fast-reid SBS, ResNet-50-IBN-a", {"veri776": (97.0, 81.9, 46.3)}),
    Published(
        "fast-reid BoT, ResNet-50-IBN-a",
        {"vehicleid-800": (86.6,), "vehicleid-1600": (82.9,), "vehicleid-2400": (80.6,)},
    ),
    Published("TransReID*, DeiT", {"veri776": (97.1, 82.4, None), "vehicleid-800": (86.0,)}),
    Published("MBR R50 4X", {"veri776": (97.7, 84.7, None)}),
    Published("PGAN", {"veri776": (96.3, 79.4, None), "vehicleid-2400": (77.7,), "vric": (78.1, 85.1)}),
    Published("MDFE-Net (2024, the same group)", {"veri776": (97.0, 80.3, None), "vehicleid-800": (83.7,)}),
)


def format_comparison(own: Sequence[tuple[str, Result]]) -> str:
    """The published figures and one's own, as Markdown, percent.

    Results of protocols that no column is of are left out, and said to be; re-ranked ones show their plain figures,
    as the published ones are.

    Args:
        own: results with the names of their rows; those of one name share a row.
    """
    rows = {published.method: published.figures for published in PUBLISHED}
    left_out = []
    known = dict(_COLUMNS.values())
    for name, result in own:
        if result.protocol not in known:
            left_out.append(f"{name} ({result.protocol})")
            continue
        plain = result.plain or result
        rows.setdefault(f"**{name}**", {})[result.protocol] = tuple(
            100 * float(plain.cmc[0] if figure == "cmc" else getattr(plain, figure))
            for figure in known[result.protocol]
        )
    lines = ["| method | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for method, figures in rows.items():
        cells = [
            " / ".join("–" if value is None else f"{value:.1f}" for value in figures.get(protocol, ()))
            for protocol, _ in _COLUMNS.values()
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    if left_out:
        lines += ["", "Of other protocols, and not in the table: " + ", ".join(left_out) + "."]
    return "\n".join(lines)


def read_results(path: pathlib.Path) -> list[tuple[str, Result]]:
    """The results of a run, of the last step for each protocol, or that of one file.

    Raises:
        UserError: there are none.
    """
    if path.is_file():
        return [(path.stem, Result.from_json(path))]
    files = sorted(
        (path / "results").glob("*_step_*.json"), key=lambda file: int(file.stem.rpartition("_")[2])
    )
    if not files:
        raise UserError(
            f"{path} holds no results. Give the work directory of a run that was evaluated, or a file of its results/."
        )
    newest = {result.protocol: result for result in map(Result.from_json, files)}
    return [(path.name, result) for result in newest.values()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=pathlib.Path, help="work directories or result files")
    try:
        own = [entry for path in parser.parse_args(arguments).runs for entry in read_results(path)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_comparison(own))
    return 0


if __name__ == "__main__":
    sys.exit(main())
