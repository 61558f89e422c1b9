"""The result of a test: its numbers, each query's own values, and all that a reader must know to compare
it.
"""

import dataclasses
import json
import os
import pathlib
import re
import tempfile
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mfg_jax.errors import UserError

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Draw:
    """One run of a protocol; fractions, not percent. See `mfg_jax.retrieval.Metrics` for the definitions.

    Attributes:
        cmc: (max_rank,) float64.
        mean_ap: Mean over the counted queries.
        mean_inp: Mean over the counted queries.
        gallery_size: Number of gallery images.
        query_index: (Q,) int64 place of each query in its split.
        query_id: (Q,) int64 identity of each query.
        average_precision: (Q,) float64, NaN where not counted.
        inverse_negative_penalty: (Q,) float64, NaN where not counted.
        first_hit: (Q,) int64 rank of the nearest hit, from 1; 0 where not counted.
        hits: (Q,) int64 number of right answers; a query with 0 is not counted.
        excluded: (Q,) int64 number of gallery images the protocol left out for this query.
    """

    cmc: npt.NDArray[np.float64]
    mean_ap: float
    mean_inp: float
    gallery_size: int
    query_index: npt.NDArray[np.int64]
    query_id: npt.NDArray[np.int64]
    average_precision: npt.NDArray[np.float64]
    inverse_negative_penalty: npt.NDArray[np.float64]
    first_hit: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.int64]

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """(Q,) bool; which queries have a right answer in the gallery."""
        return self.hits > 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What a protocol measured.

    Attributes:
        protocol: Name of the protocol.
        exclude_same_camera: Whether gallery images of the query's identity and camera were left out.
        seed: Seed of the draws; without meaning where nothing is drawn.
        distance: Name of the distance.
        ap: Form of the average precision, "standard" or "trapezoid".
        reranking: Settings of k-reciprocal re-ranking, or None where it was off.
        query_expansion: Settings of query expansion, or None where it was off.
        flip: Whether embeddings are the average over an image and its mirror image.
        draws: One entry for each draw, at least one.
        plain: With re-ranking or query expansion on, the result without.
        context: Whatever else the caller wants kept: configuration, seed, step, versions. JSON values only.
    """

    protocol: str
    exclude_same_camera: bool
    seed: int
    distance: str
    ap: str
    reranking: Mapping[str, float] | None
    query_expansion: Mapping[str, float] | None
    flip: bool
    draws: tuple[Draw, ...]
    plain: "Result | None" = None
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def cmc(self) -> npt.NDArray[np.float64]:
        """(max_rank,) mean over the draws."""
        return np.mean([draw.cmc for draw in self.draws], axis=0)

    @property
    def cmc_std(self) -> npt.NDArray[np.float64]:
        """(max_rank,) standard deviation over the draws (n in the denominator)."""
        return np.std([draw.cmc for draw in self.draws], axis=0)

    @property
    def mean_ap(self) -> float:
        """Mean over the draws."""
        return float(np.mean([draw.mean_ap for draw in self.draws]))

    @property
    def mean_ap_std(self) -> float:
        """Standard deviation over the draws."""
        return float(np.std([draw.mean_ap for draw in self.draws]))

    @property
    def mean_inp(self) -> float:
        """Mean over the draws."""
        return float(np.mean([draw.mean_inp for draw in self.draws]))

    @property
    def mean_inp_std(self) -> float:
        """Standard deviation over the draws."""
        return float(np.std([draw.mean_inp for draw in self.draws]))

    @property
    def gallery_size(self) -> int:
        """Number of gallery images, the same in every draw."""
        return self.draws[0].gallery_size

    @property
    def queries(self) -> int:
        """Number of queries of a draw, the same in every draw."""
        return len(self.draws[0].query_id)

    @property
    def queries_not_counted(self) -> int:
        """Queries of a draw that have no right answer in the gallery; the most of any draw."""
        return max(int((~draw.counted).sum()) for draw in self.draws)

    @property
    def one_hit_a_query(self) -> bool:
        """Whether every counted query has exactly one right answer, which makes mINP and mAP one number."""
        return all(bool((draw.hits[draw.counted] == 1).all()) for draw in self.draws)

    def describe(self) -> str:
        """All that has to be said of the numbers, in one line."""
        times = f", {len(self.draws)} draws (seed {self.seed})" if len(self.draws) > 1 else ""
        missing = self.queries_not_counted
        return (
            f"protocol {self.protocol}{times}; gallery {self.gallery_size:,} images; "
            f"{self.queries - missing:,} queries counted, {missing:,} without a right answer not counted; "
            f"left out: {self._left_out()}; {self.distance} distance; AP: {self.ap}; "
            f"re-ranking {_settings(self.reranking)}; query expansion {_settings(self.query_expansion)}; "
            f"flip averaging {'on' if self.flip else 'off'}"
        )

    def _left_out(self) -> str:
        if not self.exclude_same_camera:
            return "nothing"
        total = sum(int(draw.excluded.sum()) for draw in self.draws)
        return f"same identity and camera ({total:,} {'pair' if total == 1 else 'pairs'})"

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes the result to `path`, which is complete or not there at all."""
        text = json.dumps(_to_plain(self), indent=1, allow_nan=False)
        # One number a line would make a file of a hundred thousand lines; a list of numbers stays on one
        # line.
        text = re.sub(r"\[[^][{}\"]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text)
        write_text(path, text + "\n")

    @staticmethod
    def from_json(path: str | os.PathLike[str]) -> "Result":
        """Reads what `to_json` wrote.

        Raises:
            UserError: The file is missing or is not such a result.
        """
        try:
            values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"The result {path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UserError(
                f"{path} is not JSON ({error}). Expected a result file of an evaluation."
            ) from error
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path} is not a result file of format {FORMAT_VERSION}. Expected what `Result.to_json` "
                "wrote."
            )
        try:
            return _from_plain(values)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"The result {path} is damaged ({error!r}). Evaluate again to write it anew."
            ) from error


def with_plain(results: Mapping[str, Result]) -> dict[str, Result]:
    """The results, each followed by its plain one where it has been re-ranked or its queries expanded."""
    rows: dict[str, Result] = {}
    for label, result in results.items():
        rows[label] = result
        if result.plain is not None:
            rows[f"{label}, plain"] = result.plain
    return rows


def format_table(results: Mapping[str, Result]) -> str:
    """A table for the terminal, in percent, with what has to be said of it below.

    Args:
        results: Results by label. One with re-ranking is followed by its plain numbers.
    """
    rows = with_plain(results)
    width = max(len("percent"), *(len(label) for label in rows))
    ranks = (1, 5, 10)
    several = any(len(result.draws) > 1 for result in rows.values())
    cell = 12 if several else 7
    heads = [*(f"CMC@{rank}" for rank in ranks), "mAP", "mINP"]
    lines = ["  ".join([f"{'percent':<{width}}", *(f"{head:>{cell}}" for head in heads)])]
    lines.append("-" * len(lines[0]))
    for label, result in rows.items():
        values = [(_at(result.cmc, rank), _at(result.cmc_std, rank)) for rank in ranks]
        values += [(result.mean_ap, result.mean_ap_std), (result.mean_inp, result.mean_inp_std)]
        cells = [_percent(mean, std if len(result.draws) > 1 else None) for mean, std in values]
        lines.append("  ".join([f"{label:<{width}}", *(f"{text:>{cell}}" for text in cells)]))
    lines.append("")
    descriptions: dict[str, list[str]] = {}
    for label, result in rows.items():
        descriptions.setdefault(result.describe(), []).append(label)
    for description, labels in descriptions.items():
        text = description if len(descriptions) == 1 else f"{' / '.join(labels)}: {description}"
        lines.append(textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False))
    if several:
        lines.append("± is the standard deviation over the draws.")
    if any(result.one_hit_a_query and result.ap == "standard" for result in rows.values()):
        lines.append(
            "mINP equals mAP here because every query has exactly one right answer: "
            "with its rank r, both are 1/r."
        )
    return "\n".join(lines)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file through a temporary name in the same folder, so that no reader meets half of it."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes the file private; give it the permissions an ordinary file would have had.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _at(curve: npt.NDArray[np.float64], rank: int) -> float:
    return float(curve[rank - 1]) if rank <= len(curve) else float("nan")


def _percent(mean: float, std: float | None) -> str:
    if np.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _settings(settings: Mapping[str, float] | None) -> str:
    if settings is None:
        return "off"
    return "on (" + ", ".join(f"{name}={value:g}" for name, value in settings.items()) + ")"


def _to_plain(result: Result) -> dict[str, Any]:
    """A result as JSON values; the summary comes first, because people look into these files."""
    summary: dict[str, Any] = {
        "cmc@1": _finite(_at(result.cmc, 1)),
        "cmc@5": _finite(_at(result.cmc, 5)),
        "cmc@10": _finite(_at(result.cmc, 10)),
        "mAP": result.mean_ap,
        "mINP": result.mean_inp,
        "queries_counted": result.queries - result.queries_not_counted,
        "queries_not_counted": result.queries_not_counted,
        "gallery_size": result.gallery_size,
        "description": result.describe(),
    }
    if len(result.draws) > 1:
        summary["std"] = {
            "cmc@1": _finite(_at(result.cmc_std, 1)),
            "cmc@5": _finite(_at(result.cmc_std, 5)),
            "cmc@10": _finite(_at(result.cmc_std, 10)),
            "mAP": result.mean_ap_std,
            "mINP": result.mean_inp_std,
        }
    return {
        "format_version": FORMAT_VERSION,
        "summary": summary,
        "protocol": result.protocol,
        "exclude_same_camera": result.exclude_same_camera,
        "seed": result.seed,
        "distance": result.distance,
        "ap": result.ap,
        "reranking": None if result.reranking is None else dict(result.reranking),
        "query_expansion": None if result.query_expansion is None else dict(result.query_expansion),
        "flip": result.flip,
        "context": dict(result.context),
        "plain": None if result.plain is None else _to_plain(result.plain),
        "draws": [
            {field.name: _listed(getattr(draw, field.name)) for field in dataclasses.fields(Draw)}
            for draw in result.draws
        ],
    }


def _from_plain(values: Mapping[str, Any]) -> Result:
    floats = ("cmc", "average_precision", "inverse_negative_penalty")
    integers = ("query_index", "query_id", "first_hit", "hits", "excluded")
    draws = []
    for draw in values["draws"]:
        arrays: dict[str, Any] = {name: np.array(draw[name], np.float64) for name in floats}
        arrays |= {name: np.array(draw[name], np.int64) for name in integers}
        if len({len(arrays[name]) for name in (*floats[1:], *integers)}) != 1:
            raise ValueError("lists of different lengths")
        draws.append(
            Draw(
                mean_ap=float(draw["mean_ap"]),
                mean_inp=float(draw["mean_inp"]),
                gallery_size=int(draw["gallery_size"]),
                **arrays,
            )
        )
    if not draws:
        raise ValueError("no draws")
    return Result(
        protocol=str(values["protocol"]),
        exclude_same_camera=bool(values["exclude_same_camera"]),
        seed=int(values["seed"]),
        distance=str(values["distance"]),
        ap=str(values["ap"]),
        reranking=values["reranking"],
        query_expansion=values["query_expansion"],
        flip=bool(values["flip"]),
        draws=tuple(draws),
        plain=None if values["plain"] is None else _from_plain(values["plain"]),
        context=values["context"],
    )


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else value


def _listed(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # NaN, the value of a query that is not counted, is null in JSON; np.array(..., float64) reads it back.
    return [_finite(item) for item in value.tolist()] if value.dtype.kind == "f" else value.tolist()
