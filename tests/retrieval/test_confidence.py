"""Intervals and comparisons: their coverage by simulation, and what they refuse to compare."""

import dataclasses
import itertools

import numpy as np
import pytest

from mfg_jax.errors import UserError
from mfg_jax.retrieval import RetrievalSet, confidence_intervals, evaluate_protocol, format_intervals
from mfg_jax.retrieval.compare import main
from mfg_jax.retrieval.confidence import _sign_flip_p_value, bootstrap_interval, compare


def some_result(noise, seed=0, identities=40, protocol="veri776"):
    rng = np.random.default_rng(seed)

    def some(images, stream):
        own = np.random.default_rng([seed, stream])
        ids = rng.integers(0, identities, images)
        features = np.eye(identities)[ids] + noise * own.standard_normal((images, identities))
        return RetrievalSet(features, ids, rng.integers(0, 3, images))

    query, gallery = some(120, 1), some(400, 2)
    return evaluate_protocol(protocol, {"query": query, "gallery": gallery, "test_800": gallery})


def coverage(runs, samples, identities=200, seed=0):
    """Share of 95 % intervals that hold the true mean, for clustered queries in clusters of varying size."""
    rng = np.random.default_rng(seed)
    held = 0
    for run in range(runs):
        counts = rng.integers(2, 13, identities)
        # An identity is easy or hard as a whole: its queries' values share a mean drawn from a skewed law.
        easy = rng.beta(2, 1, identities)
        sums = rng.binomial(counts, easy).astype(np.float64)
        interval = bootstrap_interval(sums, counts.astype(np.float64), 0.95, samples, run)
        held += interval.low <= 2 / 3 <= interval.high
    return held / runs


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # 400 runs leave a standard error of 1.1 percentage points.
    assert 0.915 <= coverage(400, 400) <= 0.985


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    assert 0.93 <= coverage(4000, 1000) <= 0.97


def test_drawing_queries_instead_of_identities_would_promise_too_much():
    """Why identities are drawn: with values that go together, query-wise intervals are far too narrow."""
    rng = np.random.default_rng(0)
    counts = np.full(50, 20)
    easy = rng.beta(2, 1, 50)
    values = rng.binomial(1, np.repeat(easy, counts)).astype(np.float64)
    by_identity = bootstrap_interval(
        values.reshape(50, 20).sum(axis=1), counts.astype(np.float64), 0.95, 1000, 0
    )
    by_query = bootstrap_interval(values, np.ones(1000), 0.95, 1000, 0)
    assert by_identity.high - by_identity.low > 1.5 * (by_query.high - by_query.low)


def test_the_value_is_the_metric_itself():
    result = some_result(0.6)
    intervals = confidence_intervals(result, samples=200)
    assert intervals["mAP"].value == pytest.approx(result.mean_ap, rel=1e-12)
    assert intervals["mINP"].value == pytest.approx(result.mean_inp, rel=1e-12)
    assert intervals["CMC@5"].value == pytest.approx(result.cmc[4], rel=1e-12)
    assert all(one.low <= one.value <= one.high for one in intervals.values())
    assert confidence_intervals(result, samples=200) == intervals
    assert f"{100 * result.mean_ap:.1f} [" in format_intervals({"ours": result}, samples=200)


def test_several_draws_count_as_one_body_of_evidence():
    result = some_result(0.6, protocol="vehicleid-800")
    interval = confidence_intervals(result, samples=200)["mAP"]
    assert interval.value == pytest.approx(result.mean_ap, rel=1e-12)


def test_sign_flips_agree_with_trying_all_of_them():
    difference = np.array([0.4, 0.1, -0.2, 0.5, 0.3, 0.25, 0.15, -0.05])
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    exact = (np.abs(flips @ difference) >= abs(difference.sum()) - 1e-12).mean()
    assert _sign_flip_p_value(difference, 20_000, 0) == pytest.approx(exact, abs=0.01)


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(1)
    p_values = [_sign_flip_p_value(rng.standard_normal(30), 200, run) for run in range(500)]
    # 500 runs: 5 % of them below 0.05, give or take four standard errors.
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.09


def test_a_better_model_is_seen_and_equal_ones_are_not():
    good, bad = some_result(0.5), some_result(0.9)
    comparison = compare(bad, good, samples=500)["mAP"]
    assert comparison.difference.low > 0
    assert comparison.p_value < 0.01
    assert comparison.difference.value == pytest.approx(good.mean_ap - bad.mean_ap, rel=1e-9)
    same = compare(good, good, samples=500)["mAP"]
    assert same.difference.value == same.difference.low == same.difference.high == 0
    assert same.p_value == 1


def test_command(tmp_path, capsys):
    good, bad = some_result(0.5), some_result(0.9)
    good.to_json(tmp_path / "good.json")
    bad.to_json(tmp_path / "bad.json")
    assert main([str(tmp_path / "bad.json"), str(tmp_path / "good.json"), "--samples=500"]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("mAP"))
    assert f"{100 * bad.mean_ap:.2f}" in row
    assert f"{100 * good.mean_ap:.2f}" in row
    identities = len(np.unique(good.draws[0].query_id[good.draws[0].counted]))
    assert f"bootstrap over {identities} identities" in printed


def test_command_says_what_is_wrong(tmp_path, capsys):
    result = some_result(0.5)
    result.to_json(tmp_path / "a.json")
    some_result(0.5, seed=1).to_json(tmp_path / "b.json")
    assert main([str(tmp_path / "a.json"), str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    assert "other queries or another gallery" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [({"protocol": "vric"}, "protocol is"), ({"ap": "trapezoid"}, "ap is"), ({"draws": ()}, "has 1 draws")],
)
def test_results_that_do_not_belong_together(change, message):
    result = some_result(0.5)
    with pytest.raises(UserError, match=message):
        compare(result, dataclasses.replace(result, **change))


def test_one_identity_has_no_interval():
    with pytest.raises(UserError, match="at least two identities"):
        confidence_intervals(some_result(0.5, identities=1))
