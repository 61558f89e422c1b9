"""How often does a 95 % bootstrap interval hold the true value? By simulation, for several numbers of
identities.

    python -m benchmarks.bootstrap_coverage [--runs=4000]

A world of vehicles is drawn anew in each run: each vehicle has 2 to 12 queries, which succeed with a
probability of its own, drawn from a skewed law with mean 2/3, so that the queries of a vehicle succeed and
fail together. Prints how often the interval over identities holds 2/3 and, beside it, one that draws queries
as if they were independent.
"""

import argparse

import numpy as np

from mfg_jax.retrieval.confidence import bootstrap_interval

SAMPLES = 1_000
TRUTH = 2 / 3


def covers(identities: int, run: int, *, by_query: bool) -> bool:
    """Whether the interval of one simulated test holds the truth."""
    rng = np.random.default_rng([identities, run])
    counts = rng.integers(2, 13, identities)
    succeeds = rng.binomial(1, np.repeat(rng.beta(2, 1, identities), counts)).astype(np.float64)
    if by_query:
        sums, counts = succeeds, np.ones(len(succeeds), np.int64)
    else:
        sums = np.add.reduceat(succeeds, np.cumsum(counts) - counts)
    interval = bootstrap_interval(sums, counts.astype(np.float64), 0.95, SAMPLES, run)
    return interval.low <= TRUTH <= interval.high


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4_000)
    options = parser.parse_args()
    few = max(1, options.runs // 10)
    print(f"{'identities':>10}{f'by identity ({options.runs:,} runs)':>28}{f'by query ({few:,} runs)':>26}")
    for identities in (20, 50, 200):
        held = np.mean([covers(identities, run, by_query=False) for run in range(options.runs)])
        naive = np.mean([covers(identities, run, by_query=True) for run in range(few)])
        print(f"{identities:>10}{100 * held:>26.1f} %{100 * naive:>24.1f} %", flush=True)


if __name__ == "__main__":
    main()
