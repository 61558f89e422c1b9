"""How far a number can be trusted: bootstrap intervals, and the comparison of two results on the same
queries.

Images of one vehicle succeed and fail together, so they are not independent: *identities* are drawn, each
with all its queries. Drawing queries instead would promise intervals that are too narrow.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError
from mfg_jax.retrieval.results import Draw, Result, with_plain

FloatVector = npt.NDArray[np.float64]

_SAMPLES_AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; fractions, not percent.

    Attributes:
        value: The value itself, of all queries.
        low: Lower end.
        high: Upper end.
        level: Share of such intervals that would cover the true value, 0.95 for instance.
    """

    value: float
    low: float
    high: float
    level: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The difference of two results, the second less the first.

    Attributes:
        first: Value of the first result.
        second: Value of the second.
        difference: Second less first, with its interval.
        p_value: Of a sign-flip randomisation test over identities: how often, were the two equally good,
            exchanging them identity by identity at random would show a difference at least as large.
    """

    first: float
    second: float
    difference: Interval
    p_value: float


def per_query_values(draw: Draw) -> dict[str, FloatVector]:
    """The metrics of one draw as per-query values, (Q,) each, NaN where not counted: a metric is its mean."""

    def within(rank: int) -> FloatVector:
        hit = ((draw.first_hit > 0) & (draw.first_hit <= rank)).astype(np.float64)
        return np.where(draw.counted, hit, np.nan)

    return {
        "CMC@1": within(1),
        "CMC@5": within(5),
        "CMC@10": within(10),
        "mAP": draw.average_precision,
        "mINP": draw.inverse_negative_penalty,
    }


def confidence_intervals(
    result: Result, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """Bootstrap interval of every metric, over identities.

    With several draws (VehicleID), an identity brings its queries of all draws; the interval says how the
    mean over the draws would vary with other vehicles, not with other draws.

    Args:
        result: A result.
        level: Between 0 and 1.
        samples: Bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        Intervals by metric.

    Raises:
        UserError: Fewer than two identities, or a level that is not between 0 and 1.
    """
    return {
        name: bootstrap_interval(sums, counts, level, samples, seed)
        for name, (sums, counts) in _sums_by_identity(result, per_query_values).items()
    }


def compare(
    first: Result, second: Result, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> dict[str, Comparison]:
    """Compares two results of one protocol on the same queries, query by query.

    Args:
        first: The one to compare with.
        second: The other.
        level: Of the interval of the difference.
        samples: Bootstrap samples, and random exchanges of the test.
        seed: Of both.

    Returns:
        Comparisons by metric.

    Raises:
        UserError: The two are not of one protocol, form of AP, and queries, so that a difference would mean
            nothing.
    """
    _check_comparable(first, second)
    comparisons = {}
    of_first = _sums_by_identity(first, per_query_values)
    of_second = _sums_by_identity(second, per_query_values)
    for name, (sums, counts) in of_first.items():
        difference = of_second[name][0] - sums
        comparisons[name] = Comparison(
            first=float(sums.sum() / counts.sum()),
            second=float(of_second[name][0].sum() / counts.sum()),
            difference=bootstrap_interval(difference, counts, level, samples, seed),
            p_value=_sign_flip_p_value(difference, samples, seed),
        )
    return comparisons


def format_intervals(
    results: Mapping[str, Result], *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> str:
    """A table for the terminal: every metric in percent with its interval.

    Args:
        results: Results by label. One with re-ranking is followed by its plain numbers.
        level: As in `confidence_intervals`.
        samples: As in `confidence_intervals`.
        seed: As in `confidence_intervals`.
    """
    rows = {
        label: confidence_intervals(result, level=level, samples=samples, seed=seed)
        for label, result in with_plain(results).items()
    }
    width = max(len("percent"), *(len(label) for label in rows))
    names = list(next(iter(rows.values())))
    lines = ["  ".join([f"{'percent':<{width}}", *(f"{name:>19}" for name in names)])]
    lines.append("-" * len(lines[0]))
    for label, intervals in rows.items():
        cells = [
            f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in intervals.values()
        ]
        lines.append("  ".join([f"{label:<{width}}", *(f"{cell:>19}" for cell in cells)]))
    lines += [
        "",
        f"In brackets, the {100 * level:g} % interval: bootstrap over identities, {samples:,} samples.",
    ]
    return "\n".join(lines)


def _sums_by_identity(
    result: Result, values: Callable[[Draw], Mapping[str, FloatVector]]
) -> dict[str, tuple[FloatVector, FloatVector]]:
    """By metric: the sum of the counted queries' values, and their number, of each identity, (I,) each."""
    ids = np.concatenate([draw.query_id for draw in result.draws])
    counted = np.concatenate([draw.counted for draw in result.draws])
    _, identity = np.unique(ids[counted], return_inverse=True)
    counts = np.bincount(identity).astype(np.float64)
    by_draw = [values(draw) for draw in result.draws]

    def sums(name: str) -> FloatVector:
        weights = np.concatenate([one[name] for one in by_draw])[counted]
        return np.bincount(identity, weights=weights).astype(np.float64)

    return {name: (sums(name), counts) for name in by_draw[0]}


def bootstrap_interval(
    sums: FloatVector, counts: FloatVector, level: float, samples: int, seed: int
) -> Interval:
    """Percentile bootstrap of the mean of values that come in groups, drawing whole groups.

    Args:
        sums: (I,) sum of each group's values.
        counts: (I,) number of each group's values.
        level: Between 0 and 1.
        samples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        UserError: Fewer than two groups, or a level or number of samples out of range.
    """
    identities = len(counts)
    if identities < 2:
        raise UserError(
            f"An interval needs at least two identities to draw from; the result has {identities}."
        )
    if not 0 < level < 1 or samples < 100:
        raise UserError(
            f"The level is {level} and samples {samples}; use a level between 0 and 1, and 100 or more."
        )
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for start in range(0, samples, _SAMPLES_AT_ONCE):
        some = min(_SAMPLES_AT_ONCE, samples - start)
        times = rng.multinomial(identities, np.full(identities, 1 / identities), size=some).astype(np.float64)
        means[start : start + some] = (times @ sums) / (times @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high), level)


def _sign_flip_p_value(difference: FloatVector, samples: int, seed: int) -> float:
    """Two-sided p-value of the total difference, by flipping the sign of identities' differences at
    random.
    """
    rng = np.random.default_rng([seed, 1])
    observed = abs(difference.sum())
    at_least = 0
    # Rounding must not hide an exact tie, which counts.
    limit = observed - 1e-12 * max(1.0, np.abs(difference).sum())
    for start in range(0, samples, _SAMPLES_AT_ONCE):
        some = min(_SAMPLES_AT_ONCE, samples - start)
        signs = 2.0 * rng.integers(0, 2, (some, len(difference))) - 1
        at_least += int((np.abs(signs @ difference) >= limit).sum())
    return (1 + at_least) / (1 + samples)


def _check_comparable(first: Result, second: Result) -> None:
    for name in ("protocol", "ap", "exclude_same_camera", "distance"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise UserError(
                f"The results cannot be compared: {name} is {one!r} in the first and {other!r} in the second."
            )
    if len(first.draws) != len(second.draws):
        raise UserError(
            f"The results cannot be compared: the first has {len(first.draws)} draws, the second "
            f"{len(second.draws)}."
        )
    for number, (one, other) in enumerate(zip(first.draws, second.draws, strict=True)):
        same = all(
            np.array_equal(getattr(one, name), getattr(other, name))
            for name in ("query_index", "query_id", "hits", "excluded")
        )
        if not same or one.gallery_size != other.gallery_size:
            hint = "" if first.seed == second.seed else f" (their seeds are {first.seed} and {second.seed})"
            raise UserError(
                f"The results cannot be compared: draw {number + 1} has other queries or another gallery in "
                f"the second{hint}. Evaluate both on the same data with the same seed."
            )
