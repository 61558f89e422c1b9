"""The table of published figures takes one's own results into the right columns."""

import numpy as np
import pytest

from mfg_jax.errors import UserError
from mfg_jax.retrieval import Reranking, RetrievalSet, evaluate_protocol
from mfg_jax.retrieval.published import PUBLISHED, format_comparison, main, read_results


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)

    def some(images):
        ids = rng.integers(0, 8, images)
        features = np.eye(8)[ids] + 0.6 * rng.standard_normal((images, 8))
        return RetrievalSet(features, ids, rng.integers(0, 3, images))

    return {"query": some(20), "gallery": some(60)}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_own_results_stand_in_their_protocols_columns_and_share_a_row(sets):
    veri, vric = evaluate_protocol("veri776", sets), evaluate_protocol("vric", sets)
    lines = format_comparison([("mine", veri), ("mine", vric)]).splitlines()
    assert len(lines) == 2 + len(PUBLISHED) + 1
    head, last = _cells(lines[0]), _cells(lines[-1])
    assert last[0] == "**mine**"
    shown = dict(zip(head, last, strict=True))
    assert shown["VeRi-776 Rank-1 / mAP / mINP"] == " / ".join(
        f"{100 * value:.1f}" for value in (veri.cmc[0], veri.mean_ap, veri.mean_inp)
    )
    assert shown["VRIC Rank-1 / mAP"] == f"{100 * vric.cmc[0]:.1f} / {100 * vric.mean_ap:.1f}"
    assert shown["large"] == ""


def test_a_reranked_result_shows_its_plain_figures(sets):
    plain = evaluate_protocol("veri776", sets)
    reranked = evaluate_protocol("veri776", sets, reranking=Reranking(k1=6, k2=2))
    assert reranked.mean_ap != plain.mean_ap
    assert format_comparison([("a", reranked)]) == format_comparison([("a", plain)])


def test_a_run_gives_its_newest_results_and_others_are_said_to_be_left_out(sets, tmp_path, capsys):
    run = tmp_path / "mine"
    evaluate_protocol("veri776", sets, context={"step": 9}).to_json(
        run / "results/veri776_step_00000009.json"
    )
    evaluate_protocol("veri776", sets, context={"step": 10}).to_json(
        run / "results/veri776_step_00000010.json"
    )
    ((name, result),) = read_results(run)
    assert (name, result.context["step"]) == ("mine", 10)
    assert "mine (synthetic)" in format_comparison([("mine", evaluate_protocol("synthetic", sets))])
    assert main([str(run)]) == 0
    assert "**mine**" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds no results"):
        read_results(tmp_path)
    assert main([str(tmp_path)]) == 1
