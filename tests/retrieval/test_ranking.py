"""`evaluate` against an evaluator written from the definitions, and the properties a citable number needs."""

import os
import pathlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from retrieval_oracle import cmc_plainly, evaluate_plainly, squared_distances

from mfg_jax.errors import UserError
from mfg_jax.retrieval import RetrievalSet, counting, distance, evaluate, evaluate_distances
from mfg_jax.retrieval.ranking import QueryShare

EXTREMES = (-(2**63), -1, 0, 1, 2**31, 2**63 - 1)


@st.composite
def retrieval_cases(draw):
    """A query and a gallery set of small integers, for which float32 arithmetic is exact and ties are
    common.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.integers(1, 5))
    spread = draw(st.integers(0, 3))  # 0: all features equal, zero vectors included
    labels = draw(st.lists(st.sampled_from(EXTREMES) | st.integers(-5, 5), min_size=1, max_size=6))
    cameras = draw(st.lists(st.sampled_from(EXTREMES) | st.integers(0, 3), min_size=1, max_size=3))

    def some(size):
        features = rng.integers(-spread, spread + 1, (size, width)).astype(np.float32)
        return RetrievalSet(features, rng.choice(np.array(labels), size), rng.choice(np.array(cameras), size))

    return some(draw(st.integers(1, 12))), some(draw(st.integers(1, 40)))


def check_against_oracle(query, gallery, exclude_same_camera, ap, **options):
    distances = squared_distances(query.features, gallery.features)
    expected = evaluate_plainly(distances, query, gallery, exclude_same_camera, ap)
    if not any(one.hits for one in expected):
        with pytest.raises(UserError, match="has a right answer"):
            evaluate(query, gallery, exclude_same_camera, 20, ap, **options)
        return
    metrics = evaluate(query, gallery, exclude_same_camera, 20, ap, **options)
    assert metrics.hits.tolist() == [one.hits for one in expected]
    assert metrics.counted.tolist() == [one.hits > 0 for one in expected]
    assert metrics.first_hit.tolist() == [one.first_hit or 0 for one in expected]
    for row, one in enumerate(expected):
        if one.hits:
            assert metrics.average_precision[row] == pytest.approx(one.average_precision, rel=1e-12)
            assert metrics.inverse_negative_penalty[row] == pytest.approx(
                one.inverse_negative_penalty, rel=1e-12
            )
        else:
            assert np.isnan(metrics.average_precision[row])
            assert np.isnan(metrics.inverse_negative_penalty[row])
    assert metrics.cmc == pytest.approx(cmc_plainly(expected, 20), rel=1e-12)
    counted = [one for one in expected if one.hits]
    assert metrics.mean_ap == pytest.approx(np.mean([one.average_precision for one in counted]), rel=1e-12)
    assert metrics.mean_inp == pytest.approx(
        np.mean([one.inverse_negative_penalty for one in counted]), rel=1e-12
    )


@settings(max_examples=100, deadline=None)
@given(retrieval_cases(), st.booleans(), st.sampled_from(["standard", "trapezoid"]))
def test_agrees_with_the_definitions(case, exclude_same_camera, ap):
    check_against_oracle(*case, exclude_same_camera, ap)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(retrieval_cases(), st.booleans(), st.sampled_from(["standard", "trapezoid"]), st.integers(1, 200))
def test_agrees_with_the_definitions_in_a_thousand_cases(case, exclude_same_camera, ap, block_size):
    check_against_oracle(*case, exclude_same_camera, ap, block_size=block_size)


def clustered_sets(seed, queries, gallery, width, identities=12, spread=0.7):
    """Two sets of real-valued features round a centre for each identity."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((identities, width))

    def some(size):
        ids = rng.integers(0, identities, size)
        features = centres[ids] + spread * rng.standard_normal((size, width))
        return RetrievalSet(features.astype(np.float32), ids, rng.integers(0, 4, size))

    return some(queries), some(gallery)


def assert_identical(one, other):
    """Every field is the same to the last bit."""
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("ap", ["standard", "trapezoid"])
def test_agrees_with_the_definitions_on_real_valued_features(ap):
    query, gallery = clustered_sets(1, 150, 700, 24)
    distances = np.sort(squared_distances(query.features, gallery.features), axis=1)
    # Float32 can only be asked for an order that float64 sees clearly; this case has no closer neighbours.
    assert (np.diff(distances, axis=1) / distances[:, 1:]).min() > 0
    metrics = evaluate(query, gallery, ap=ap)
    expected = evaluate_plainly(squared_distances(query.features, gallery.features), query, gallery, True, ap)
    got = metrics.average_precision[metrics.counted]
    want = np.array([one.average_precision for one in expected if one.hits])
    # A swap of two neighbours that differ in the eighth digit moves one AP a little.
    assert np.abs(got - want).max() < 2e-3
    assert np.median(np.abs(got - want)) < 1e-12


@pytest.mark.parametrize(
    ("hits", "ap", "trapezoid", "inp"),
    [
        ([0, 1, 0], 0.5, 0.25, 0.5),
        ([1, 0, 1, 0, 1], 0.7556, 0.7111, 0.6),
        ([0, 1, 1, 0], 0.5833, 0.4167, 0.6667),
    ],
)
def test_worked_table(hits, ap, trapezoid, inp):
    query = RetrievalSet(np.zeros((1, 2)), np.array([7]), np.array([0]))
    places = np.arange(1, len(hits) + 1, dtype=np.float32)
    gallery = RetrievalSet(
        np.stack([places, 0 * places], axis=1), np.where(hits, 7, 8), np.ones(len(hits), int)
    )
    assert evaluate(query, gallery).mean_ap == pytest.approx(ap, abs=5e-5)
    assert evaluate(query, gallery, ap="trapezoid").mean_ap == pytest.approx(trapezoid, abs=5e-5)
    assert evaluate(query, gallery).mean_inp == pytest.approx(inp, abs=5e-5)


def test_one_hit_a_query_makes_mean_ap_and_mean_inp_one_number():
    rng = np.random.default_rng(3)
    ids = rng.permutation(50)
    query = RetrievalSet(rng.standard_normal((50, 8)), ids, np.zeros(50, int))
    gallery = RetrievalSet(rng.standard_normal((50, 8)), np.arange(50), np.ones(50, int))
    metrics = evaluate(query, gallery)
    assert metrics.mean_ap == metrics.mean_inp == pytest.approx((1 / metrics.first_hit).mean(), rel=1e-14)


@pytest.mark.parametrize("width", [3, 64, 130])
def test_same_bits_for_any_block_size_and_device_count(width):
    query, gallery = clustered_sets(2, 300, 900, width)
    # Duplicates in the gallery make exact ties that only a shape-independent product keeps.
    features = gallery.features.copy()
    features[450:] = features[:450]
    gallery = RetrievalSet(features, gallery.ids, gallery.cameras)
    reference = evaluate(query, gallery)
    for block_size in (1, 64, 100, 129, 5000):
        assert_identical(reference, evaluate(query, gallery, block_size=block_size))
    for count in (1, 2, 3, 8):
        for block_size in (None, 100):
            many = evaluate(query, gallery, block_size=block_size, devices=jax.devices()[:count])
            assert_identical(reference, many)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "processes"), [(37, 2), (37, 3), (2, 3)])
def test_same_bits_when_processes_share_the_queries(queries, processes):
    """Here each process is a thread."""
    query, gallery = clustered_sets(5, queries, 300, 24)
    reference = evaluate(query, gallery)
    everyone, parts = threading.Barrier(processes), [np.empty(0)] * processes

    def run(process):
        def gather(values):
            parts[process] = values
            everyone.wait(60)
            return np.stack(parts)

        return evaluate(query, gallery, share=QueryShare(process, processes, gather))

    with ThreadPoolExecutor(processes) as threads:
        for metrics in threads.map(run, range(processes)):
            assert_identical(reference, metrics)


def test_same_bits_in_a_process_with_one_device():
    """The size of XLA's thread pool follows the number of devices; the result must not."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_ranking import clustered_sets\n"
        "from mfg_jax.retrieval import evaluate\n"
        "metrics = evaluate(*clustered_sets(8, 300, 900, 130))\n"
        "print(metrics.average_precision.tobytes().hex())\n"
    )
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", script, str(pathlib.Path(__file__).parent)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    here = evaluate(*clustered_sets(8, 300, 900, 130), devices=jax.devices()[:8])
    assert printed.split()[-1] == here.average_precision.tobytes().hex()


def test_same_bits_whether_distances_are_kept_or_streamed(monkeypatch):
    query, gallery = clustered_sets(4, 200, 1500, 40)
    reference = evaluate(query, gallery)
    monkeypatch.setattr(counting, "_KEPT_VALUES", 0)
    monkeypatch.setattr(distance, "_CPU_BLOCK_VALUES", 2**15)
    assert_identical(reference, evaluate(query, gallery))
    assert_identical(reference, evaluate(query, gallery, devices=jax.devices()[:3]))


@pytest.mark.parametrize("count", [1, 4])
def test_accelerator_path_gives_the_same_metrics(monkeypatch, count):
    """The path for GPUs and TPUs counts on the device; here it runs on virtual CPU devices."""
    query, gallery = clustered_sets(5, 150, 1000, 16)
    features = gallery.features.copy()
    features[500:] = features[:500]
    gallery = RetrievalSet(features, gallery.ids, gallery.cameras)
    reference = evaluate(query, gallery)
    monkeypatch.setattr(distance.Devices, "on_cpu", property(lambda self: False))
    monkeypatch.setattr(distance, "_ACCELERATOR_ROWS", 64)
    monkeypatch.setattr(distance, "_ACCELERATOR_COLUMNS", 128)
    assert_identical(reference, evaluate(query, gallery, devices=jax.devices()[:count]))


@settings(max_examples=30, deadline=None)
@given(retrieval_cases(), st.randoms(use_true_random=False))
def test_order_of_the_queries_does_not_matter(case, random):
    query, gallery = case
    assume(np.isin(query.ids, gallery.ids).any())
    order = list(range(len(query)))
    random.shuffle(order)
    straight = evaluate(query, gallery, exclude_same_camera=False)
    shuffled = evaluate(query.take(order), gallery, exclude_same_camera=False)
    np.testing.assert_array_equal(straight.average_precision[order], shuffled.average_precision)


def test_ties_rank_by_place_in_the_gallery():
    query = RetrievalSet(np.zeros((1, 4)), np.array([1]), np.array([0]))
    ids = np.array([2] * 700 + [1] + [2] * 300)
    gallery = RetrievalSet(np.ones((len(ids), 4)), ids, np.ones(len(ids), int))
    assert evaluate(query, gallery).first_hit.tolist() == [701]
    moved = gallery.take(np.r_[700, 0:700, 701:1001])
    assert evaluate(query, moved).first_hit.tolist() == [1]


def test_excludes_only_same_identity_in_same_camera():
    query = RetrievalSet(np.zeros((2, 1)), np.array([1, 9]), np.array([5, 5]))
    gallery = RetrievalSet(
        np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1, 2, 1, 1]), np.array([5, 5, 6, 5])
    )
    metrics = evaluate(query, gallery)
    # Images 0 and 3 are junk for query 0; image 1 (another identity, the query's camera) ranks before image
    # 2.
    assert metrics.excluded.tolist() == [2, 0]
    assert metrics.first_hit.tolist() == [2, 0]
    assert metrics.counted.tolist() == [True, False]
    assert evaluate(query, gallery, exclude_same_camera=False).first_hit.tolist() == [1, 0]


def test_counts_that_need_many_hits_of_one_identity():
    query, gallery = clustered_sets(6, 20, 800, 8, identities=1)
    metrics = evaluate(query, gallery, exclude_same_camera=False)
    assert metrics.hits.tolist() == [800] * 20
    assert metrics.mean_ap == metrics.mean_inp == 1.0


def test_distances_given_by_the_caller():
    query, gallery = clustered_sets(7, 60, 300, 8)
    distances = squared_distances(query.features, gallery.features).astype(np.float32)
    metrics = evaluate_distances(distances, query, gallery)
    expected = evaluate_plainly(distances, query, gallery, True, "standard")
    assert metrics.first_hit.tolist() == [one.first_hit or 0 for one in expected]
    want = [one.average_precision for one in expected if one.hits]
    assert metrics.average_precision[metrics.counted] == pytest.approx(want, rel=1e-12)


GOOD = RetrievalSet(np.eye(3), np.arange(3), np.zeros(3, int))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e19])
@pytest.mark.parametrize("which", ["query", "gallery"])
def test_unusable_numbers_are_an_error(bad, which):
    features = np.eye(3, dtype=np.float32)
    features[1, 2] = bad
    broken = RetrievalSet(features, np.arange(3), np.ones(3, int))
    pair = (broken, GOOD) if which == "query" else (GOOD, broken)
    with pytest.raises(UserError, match=f"Row 1 of the {which} features"):
        evaluate(*pair)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: evaluate(GOOD, RetrievalSet(np.zeros((0, 3)), [], [])), "The gallery set is empty"),
        (lambda: evaluate(RetrievalSet(np.zeros((0, 3)), [], []), GOOD), "The query set is empty"),
        (lambda: evaluate(GOOD, RetrievalSet(np.eye(4), np.arange(4), np.ones(4, int))), "have 3 numbers"),
        (lambda: RetrievalSet(np.eye(3), np.arange(2), np.zeros(3, int)), "`ids` has shape"),
        (lambda: RetrievalSet(np.eye(3), np.arange(3), np.zeros(4, int)), "`cameras` has shape"),
        (lambda: RetrievalSet(np.eye(3), np.arange(3) + 0.5, np.zeros(3, int)), "are integers"),
        (lambda: RetrievalSet(np.eye(3, dtype=int), np.arange(3), np.zeros(3, int)), "expected float32"),
        (lambda: RetrievalSet(np.zeros(3), np.arange(3), np.zeros(3, int)), "one embedding a row"),
        (lambda: evaluate(GOOD, GOOD, ap="voc"), 'ap="voc"'),
        (lambda: evaluate(GOOD, GOOD, max_rank=0), "max_rank is 0"),
        (lambda: evaluate(GOOD, GOOD, block_size=0), "block_size is 0"),
        (lambda: evaluate(GOOD, GOOD), "None of the 3 queries has a right answer"),
        (lambda: evaluate_distances(np.zeros((2, 3)), GOOD, GOOD), "do not fit 3 queries"),
        (lambda: evaluate_distances(np.full((3, 3), np.nan), GOOD, GOOD), "is nan"),
    ],
)
def test_bad_input_is_a_clear_error(make, message):
    with pytest.raises(UserError, match=message):
        make()
