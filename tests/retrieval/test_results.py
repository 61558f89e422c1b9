"""Results: what they say in text, and that a file gives them back whole."""

import dataclasses
import json

import numpy as np
import pytest

from mfg_jax.errors import UserError
from mfg_jax.retrieval import Reranking, Result, RetrievalSet, evaluate_protocol, format_table


def some_sets(identities=10, seed=0):
    rng = np.random.default_rng(seed)

    def some(images):
        ids = rng.integers(0, identities, images)
        features = np.eye(identities)[ids] + 0.6 * rng.standard_normal((images, identities))
        return RetrievalSet(features, ids, rng.integers(0, 3, images))

    return {"query": some(25), "gallery": some(80)}


def with_a_lonely_query(sets):
    """Adds a query whose identity the gallery lacks."""
    query = sets["query"]
    lonely = RetrievalSet(
        np.vstack([query.features, query.features[:1]]), np.r_[query.ids, 999], np.r_[query.cameras, 0]
    )
    return {**sets, "query": lonely}


def assert_equal_results(one, other):
    for field in dataclasses.fields(Result):
        if field.name in ("draws", "plain"):
            continue
        assert getattr(one, field.name) == getattr(other, field.name), field.name
    for left, right in zip(one.draws, other.draws, strict=True):
        for name, value in vars(left).items():
            np.testing.assert_array_equal(value, getattr(right, name), err_msg=name)
    assert (one.plain is None) == (other.plain is None)
    if one.plain is not None:
        assert_equal_results(one.plain, other.plain)


def test_a_file_gives_the_result_back(tmp_path):
    sets = with_a_lonely_query(some_sets())
    result = evaluate_protocol(
        "veri776", sets, reranking=Reranking(k1=6, k2=2), context={"step": 3, "versions": {"jax": "0.10.2"}}
    )
    path = tmp_path / "deep" / "result.json"
    result.to_json(path)
    assert_equal_results(Result.from_json(path), result)
    assert [item.name for item in path.parent.iterdir()] == ["result.json"]


def test_the_file_is_strict_json_with_a_summary_for_people(tmp_path):
    result = evaluate_protocol("veri776", with_a_lonely_query(some_sets()))
    result.to_json(tmp_path / "result.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert values["summary"]["mAP"] == result.mean_ap
    assert values["summary"]["queries_not_counted"] == 1
    assert values["draws"][0]["average_precision"][25] is None


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    result = evaluate_protocol("veri776", some_sets())
    result.to_json(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        dataclasses.replace(result, context={"not": object()}).to_json(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_everything_a_reader_needs_is_said():
    text = evaluate_protocol("veri776", with_a_lonely_query(some_sets())).describe()
    for part in (
        "protocol veri776",
        "gallery 80 images",
        "25 queries counted, 1 without a right answer not counted",
        "same identity and camera",
        "euclidean distance",
        "AP: standard",
        "re-ranking off",
        "query expansion off",
        "flip averaging off",
    ):
        assert part in text


def test_table_in_percent():
    result = evaluate_protocol("veri776", some_sets())
    table = format_table({"trained": result})
    assert table.splitlines()[0].split() == ["percent", "CMC@1", "CMC@5", "CMC@10", "mAP", "mINP"]
    numbers = [100 * value for value in (*result.cmc[[0, 4, 9]], result.mean_ap, result.mean_inp)]
    assert table.splitlines()[2].split() == ["trained", *(f"{number:.1f}" for number in numbers)]
    assert "mINP equals mAP" not in table


def test_table_shows_plain_numbers_beside_reranked_ones():
    result = evaluate_protocol("veri776", some_sets(), reranking=Reranking(k1=6, k2=2))
    lines = format_table({"ours": result}).splitlines()
    assert lines[2].startswith("ours ")
    assert lines[3].startswith("ours, plain ")
    assert f"{100 * result.plain.mean_ap:.1f}" in lines[3]


def test_table_says_why_mean_inp_equals_mean_ap():
    ids = np.arange(12)
    rng = np.random.default_rng(1)
    sets = {
        "query": RetrievalSet(rng.standard_normal((12, 4)), ids, 0 * ids),
        "gallery": RetrievalSet(rng.standard_normal((12, 4)), ids, 0 * ids + 1),
    }
    table = format_table({"untrained": evaluate_protocol("vric", sets)})
    assert "mINP equals mAP here because every query has exactly one right answer" in table
    assert "same identity and camera (0 pairs)" in " ".join(table.split())


def test_table_shows_the_spread_of_several_draws():
    images = some_sets()["gallery"]
    table = format_table({"ours": evaluate_protocol("vehicleid-800", {"test_800": images})})
    assert "±" in table.splitlines()[2]
    assert "10 draws (seed 0)" in table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not a result file"),
        ('{"format_version": 99}', "is not a result file"),
        ('{"format_version": 1}', "is damaged"),
    ],
)
def test_bad_files_are_a_clear_error(tmp_path, text, message):
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        Result.from_json(path)
