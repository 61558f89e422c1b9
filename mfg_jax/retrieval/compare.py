"""Command: is the second of two results really better?

    python -m mfg_jax.retrieval.compare A.json B.json [--level=0.95] [--samples=10000] [--seed=0]

Prints, for every metric, both values, the difference (B less A) with a bootstrap interval over identities,
and the p-value of a randomisation test. Docs: docs/evaluation.md.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from mfg_jax.errors import UserError
from mfg_jax.retrieval.confidence import Comparison, compare
from mfg_jax.retrieval.results import Result


def format_comparison(comparisons: Mapping[str, Comparison]) -> str:
    """A table for the terminal, in percent."""
    level = next(iter(comparisons.values())).difference.level
    head = f"{'percent':<8}{'A':>8}{'B':>8}{'B - A':>9}   {f'{100 * level:g} % interval':<18}{'p-value':>8}"
    lines = [head, "-" * len(head)]
    for name, one in comparisons.items():
        interval = f"[{100 * one.difference.low:+.2f}, {100 * one.difference.high:+.2f}]"
        lines.append(
            f"{name:<8}{100 * one.first:>8.2f}{100 * one.second:>8.2f}{100 * one.difference.value:>+9.2f}   "
            f"{interval:<18}{one.p_value:>8.4f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mfg_jax.retrieval.compare",
        description="Compare two evaluation results, query by query.",
    )
    parser.add_argument("first", metavar="A.json", help="result file to compare with")
    parser.add_argument("second", metavar="B.json", help="result file of the other model")
    parser.add_argument("--level", type=float, default=0.95, help="of the interval (default: %(default)s)")
    parser.add_argument(
        "--samples", type=int, default=10_000, help="of bootstrap and test (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap and test (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        first, second = Result.from_json(options.first), Result.from_json(options.second)
        comparisons = compare(first, second, level=options.level, samples=options.samples, seed=options.seed)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"A: {options.first}: {first.describe()}")
    print(f"B: {options.second}: {second.describe()}\n")
    print(format_comparison(comparisons))
    identities = len({int(identity) for draw in first.draws for identity in draw.query_id[draw.counted]})
    print(
        f"\nIntervals by bootstrap over {identities:,} identities; p-values by exchanging A and B identity "
        "by identity."
    )
    if identities < 30:
        print("With fewer than 30 identities the intervals are too narrow; read them with care.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
