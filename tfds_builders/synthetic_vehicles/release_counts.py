"""How many pictures each vehicle of a release has."""

import numpy as np


def draw_counts(rng: np.random.Generator, parts: int, total: int, fewest: int, most: int) -> list[int]:
    """Draws skewed counts, many small and a few large, with a given sum.

    Args:
        rng: the source of chance.
        parts: how many counts to draw.
        total: what they sum up to; moved to the nearest sum that `fewest` and `most` allow.
        fewest: the least of a count.
        most: the most of a count.

    Returns:
        The counts.
    """
    total = int(np.clip(total, fewest * parts, most * parts))
    counts = np.clip(np.rint(rng.gamma(2.0, total / parts / 2.0, size=parts)), fewest, most).astype(int)
    while (difference := total - int(counts.sum())) != 0:
        step = 1 if difference > 0 else -1
        room = np.flatnonzero(counts < most if step > 0 else counts > fewest)
        counts[rng.choice(room, size=min(abs(difference), len(room)), replace=False)] += step
    return counts.tolist()


def scaled(number: int, scale: float, least: int = 1) -> int:
    """An official number at a scale."""
    return max(least, round(number * scale))
