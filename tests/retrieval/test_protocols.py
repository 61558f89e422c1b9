"""Protocols: the splits they need, the draws they make, and what a result made by them says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfg_jax.errors import UserError
from mfg_jax.retrieval import (
    PROTOCOLS,
    QueryExpansion,
    Reranking,
    RetrievalSet,
    evaluate,
    evaluate_distances,
    evaluate_protocol,
    get_protocol,
    rerank,
)
from mfg_jax.retrieval.protocols import draw_gallery


def some_set(images, identities, cameras, seed):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((identities, 16))
    ids = rng.integers(0, identities, images)
    features = centres[ids] + rng.standard_normal((images, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return RetrievalSet(features, ids, rng.choice(cameras, images))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 4), min_size=1, max_size=60),
    st.integers(0, 2**32),
    st.integers(0, 9),
)
def test_a_draw_takes_one_image_of_each_identity(ids, seed, draw):
    query, gallery = draw_gallery(np.array(ids), seed, draw)
    assert sorted(np.concatenate([query, gallery]).tolist()) == list(range(len(ids)))
    drawn = np.array(ids)[gallery]
    assert len(set(drawn.tolist())) == len(drawn)
    assert set(drawn.tolist()) == set(ids)
    again = draw_gallery(np.array(ids), seed, draw)
    np.testing.assert_array_equal(again[1], gallery)


def test_draws_are_uniform_and_differ():
    ids = np.repeat(np.arange(400), 5)
    chosen = np.concatenate([draw_gallery(ids, 0, draw)[1] % 5 for draw in range(10)])
    # 4,000 draws of five: each 800 times, give or take 4.5 standard deviations.
    assert np.abs(np.bincount(chosen, minlength=5) - 800).max() < 115
    assert (draw_gallery(ids, 0, 0)[1] != draw_gallery(ids, 0, 1)[1]).any()
    assert (draw_gallery(ids, 0, 0)[1] != draw_gallery(ids, 1, 0)[1]).any()


def test_draws_never_change():
    """A published number must be reproducible by the next release: these are the draws of the first."""
    ids = np.repeat(np.arange(6), 4)
    assert draw_gallery(ids, 0, 0)[1].tolist() == KNOWN_DRAWS[0]
    assert draw_gallery(ids, 7, 3)[1].tolist() == KNOWN_DRAWS[1]


KNOWN_DRAWS = ([3, 6, 11, 13, 18, 20], [2, 4, 11, 13, 18, 22])


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_runs(name):
    protocol = get_protocol(name)
    sets = {split: some_set(120, 15, np.arange(4), place) for place, split in enumerate(protocol.splits)}
    result = evaluate_protocol(protocol, sets, seed=3, context={"step": 7})
    assert result.protocol == name
    assert len(result.draws) == protocol.repeats == (10 if name.startswith("vehicleid") else 1)
    assert result.exclude_same_camera == (not name.startswith("vehicleid"))
    assert result.gallery_size == (15 if protocol.draws_gallery else 120)
    assert 0 < result.mean_ap < 1
    assert result.context == {"step": 7}


def test_vehicleid_ranks_probes_against_one_image_of_each_identity():
    images = some_set(300, 40, [0], 1)
    result = evaluate_protocol("vehicleid-800", {"test_800": images}, seed=4)
    means = []
    for number, draw in enumerate(result.draws):
        query, gallery = draw_gallery(images.ids, 4, number)
        np.testing.assert_array_equal(draw.query_index, query)
        metrics = evaluate(images.take(query), images.take(gallery), exclude_same_camera=False)
        np.testing.assert_array_equal(draw.average_precision, metrics.average_precision)
        means.append(metrics.mean_ap)
    assert result.mean_ap == pytest.approx(np.mean(means), rel=1e-14)
    assert result.mean_ap_std == pytest.approx(np.std(means), rel=1e-12)
    assert result.one_hit_a_query
    assert result.mean_inp == result.mean_ap


def test_csv_excludes_cameras_only_where_there_are_several():
    one_camera = {"query": some_set(30, 5, [-1], 0), "gallery": some_set(90, 5, [-1], 1)}
    assert not evaluate_protocol("csv", one_camera).exclude_same_camera
    two_cameras = {"query": some_set(30, 5, [0, 1], 0), "gallery": some_set(90, 5, [0, 1], 1)}
    assert evaluate_protocol("csv", two_cameras).exclude_same_camera


def test_reranking_is_disclosed_beside_the_plain_numbers():
    sets = {"query": some_set(40, 8, np.arange(5), 0), "gallery": some_set(160, 8, np.arange(5), 1)}
    plain = evaluate_protocol("veri776", sets)
    result = evaluate_protocol("veri776", sets, reranking=Reranking(k1=8, k2=3))
    assert result.plain is not None
    assert result.plain.mean_ap == plain.mean_ap
    assert result.plain.reranking is None
    assert "re-ranking on (k1=8, k2=3, lambda_value=0.3)" in result.describe()
    distances = rerank(sets["query"].features, sets["gallery"].features, 8, 3)
    expected = evaluate_distances(distances, sets["query"], sets["gallery"])
    assert result.mean_ap == expected.mean_ap
    assert result.mean_ap > plain.mean_ap  # clustered features are what re-ranking is for


def test_query_expansion_is_disclosed_beside_the_plain_numbers():
    sets = {"query": some_set(40, 8, np.arange(5), 0), "gallery": some_set(160, 8, np.arange(5), 1)}
    result = evaluate_protocol("veri776", sets, query_expansion=QueryExpansion(neighbours=4))
    assert result.plain is not None
    assert "query expansion on (neighbours=4, alpha=3)" in result.describe()
    assert result.mean_ap != result.plain.mean_ap


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(UserError, match='Did you mean "veri776"'):
        get_protocol("veri-776")


def test_missing_split_is_named():
    with pytest.raises(UserError, match=r"needs the split gallery, .*: query\."):
        evaluate_protocol("vric", {"query": some_set(10, 3, [0], 0)})
