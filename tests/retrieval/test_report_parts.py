"""What a report is made of: breakdowns, the choice of queries, heat maps and charts."""

import functools
import html.parser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from retrieval_oracle import rank_one_query, squared_distances

from mfg_jax.models import MFGNet
from mfg_jax.models.parts import pool
from mfg_jax.retrieval import RetrievalSet, evaluate_protocol, ranked_lists
from mfg_jax.retrieval.report_breakdown import camera_pairs, group_queries
from mfg_jax.retrieval.report_charts import Series, line_chart
from mfg_jax.retrieval.report_heat_maps import heat_maps, layouts, pooled_sources
from mfg_jax.retrieval.report_selection import VIEWS, select_queries


def some_set(images, seed, identities=7, cameras=4):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, identities, images)
    features = 2 * np.eye(8)[ids] + rng.standard_normal((images, 8))
    return RetrievalSet(features, ids, rng.integers(0, cameras, images))


@pytest.fixture(scope="module")
def draw():
    sets = {
        "query": some_set(50, 0, identities=8),
        "gallery": some_set(90, 1),
    }  # identity 7 may have no answer
    return evaluate_protocol("veri776", sets).draws[0]


def test_groups_together_are_the_whole(draw):
    labels = ["even" if number % 2 == 0 else "odd" for number in range(50)]
    groups = group_queries(draw, labels)
    assert [group.name for group in groups] == ["even", "odd"]
    weights = [group.queries for group in groups]
    assert sum(weights) == draw.counted.sum()
    for metric, whole in (("mean_ap", draw.mean_ap), ("mean_inp", draw.mean_inp), ("cmc_1", draw.cmc[0])):
        assert np.average([getattr(group, metric) for group in groups], weights=weights) == pytest.approx(
            whole
        )
    for group in groups:
        assert group.interval is not None
        assert group.interval.low < group.mean_ap < group.interval.high


def test_a_group_of_one_vehicle_has_no_interval_and_unknown_labels_are_left_out(draw):
    vehicle = draw.query_id[draw.counted][0]
    groups = group_queries(draw, ["this" if one == vehicle else "" for one in draw.query_id])
    assert [(group.name, group.identities, group.interval) for group in groups] == [("this", 1, None)]


@pytest.mark.parametrize("exclude", [True, False])
def test_camera_pairs_by_counting(exclude):
    query, gallery = some_set(40, 2), some_set(80, 3)
    lists = ranked_lists(query, gallery, np.arange(40), 20, exclude)
    pairs = camera_pairs(
        lists, query.ids, query.cameras, gallery.ids, gallery.cameras, exclude_same_camera=exclude, within=6
    )
    squared = squared_distances(query.features, gallery.features)
    for row, a in enumerate(pairs.query_cameras):
        for column, b in enumerate(pairs.gallery_cameras):
            has = found = 0
            for q in np.flatnonzero(query.cameras == a):
                right = (gallery.ids == query.ids[q]) & (gallery.cameras == b) & ((not exclude) | (a != b))
                if not right.any():
                    continue
                has += 1
                # Answers of this camera alone stay right: their ranks are those of the whole list.
                ids = np.where(right | (gallery.ids != query.ids[q]), gallery.ids, -1)
                ranks = rank_one_query(
                    squared[q], query.ids[q], query.cameras[q], ids, gallery.cameras, False
                )
                left_out = (gallery.ids == query.ids[q]) & (gallery.cameras == a) & exclude
                order = [int(place) for place in np.argsort(squared[q], kind="stable")]
                before = [sum(left_out[place] for place in order[: rank - 1]) for rank in ranks]
                found += any(rank - gone <= 6 for rank, gone in zip(ranks, before, strict=True))
            assert pairs.queries[row, column] == has
            if has:
                assert pairs.found[row, column] == pytest.approx(found / has)
            else:
                assert np.isnan(pairs.found[row, column])


@pytest.mark.parametrize("count", [9, 1000])
def test_each_view_is_chosen_from_all_counted_queries(draw, count):
    views = select_queries(draw, count, seed=1)
    assert tuple(views) == VIEWS
    counted = np.flatnonzero(draw.counted)
    each = min(len(counted), 3 if count == 9 else len(counted))
    inp = draw.inverse_negative_penalty
    for view in VIEWS:
        assert len(views[view]) == len(set(views[view].tolist())) == each
        assert draw.counted[views[view]].all()
    np.testing.assert_array_equal(inp[views["hardest"]], np.sort(inp[counted])[:each])
    np.testing.assert_array_equal(inp[views["best"]], np.sort(inp[counted])[::-1][:each])
    np.testing.assert_array_equal(views["random"], select_queries(draw, count, seed=1)["random"])


@pytest.mark.parametrize("pooling", ["average", "max", "gem"])
def test_sources_are_shares_of_the_pooled_vector(pooling):
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (3, 4, 5, 6)))
    shares = pooled_sources(x, pooling)
    np.testing.assert_allclose(shares.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert (shares >= 0).all()
    # Where nothing is, nothing comes from.
    assert pooled_sources(x.at[:, 1].set(0.0), pooling)[:, 1].max() < 1e-3
    if pooling == "average":
        # The share of a place is then the projection of its channels onto the pooled vector.
        vector = pool(x, pooling)
        projected = jnp.einsum("bhwc,bc->bhw", x, vector) / (20 * jnp.sum(vector**2, axis=-1)[:, None, None])
        np.testing.assert_allclose(shares, projected, rtol=1e-4)
    assert np.isfinite(pooled_sources(jnp.zeros((1, 2, 2, 3)), pooling)).all()


def test_the_source_of_a_maximum_is_its_place():
    x = jnp.ones((1, 4, 4, 2)).at[0, 1, 2].set(5.0)
    shares = np.array(pooled_sources(x, "max"))
    assert shares[0, 1, 2] == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (
            {"granularities": (1, 3), "attention": "branch"},
            {"1": ["before", "after", "global"], "3": ["before", "after", "global", "parts"]},
        ),
        (
            {"granularities": ((2, 2),), "attention": "block", "branch_globals": False, "branch_from": (5, 0),
             "triplet_vectors": "parts"},
            {"2x2": ["after", "parts"]},
        ),
    ],
)  # fmt: skip
def test_heat_maps_of_a_network(settings, kinds):
    model = MFGNet(num_identities=3, depth=10, width=8, stem_stride=2, head_width=8, **settings)
    initialise = functools.partial(model.init, train=False)
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (2, 48, 64, 3)), jnp.uint8)
    # Numbers of the right shapes are as good as initial weights here, and nothing has to be compiled for them.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(initialise, jax.random.key(0), jnp.zeros((1, 48, 64, 3)))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.uniform(0.5, 1, leaf.shape) if len(leaf.shape) == 1 else rng.normal(0, 0.1, leaf.shape),
            jnp.float32,
        ),
        shapes,
    )
    maps = jax.jit(functools.partial(heat_maps, model))(variables, images)
    described = layouts(model, maps)
    assert {branch: [one.kind for one in described if one.branch == branch] for branch in kinds} == kinds
    for one in described:
        values = np.array(maps[one.branch][one.kind])
        assert values.shape == (2, one.height, one.width) == (2, 6, 8)
        if one.kind == "after" and "before" in kinds[one.branch]:
            assert (values < np.array(maps[one.branch]["before"])).all()  # every gate is below one
        if one.kind in ("global", "parts"):
            for top, bottom in one.rows:
                for left, right in one.columns:
                    np.testing.assert_allclose(
                        values[:, top:bottom, left:right].sum(axis=(1, 2)), 1, rtol=1e-4
                    )


class _Text(html.parser.HTMLParser):
    def __init__(self, markup):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_a_chart_shows_names_as_text_and_keeps_its_points_inside():
    hostile = "<script>alert(1)</script>\"'"
    chart = line_chart(hostile, [Series(hostile, np.arange(5.0), np.arange(5.0) ** 2)], x_label=hostile)
    parsed = _Text(chart)
    assert "script" not in parsed.tags
    assert parsed.text.count("alert(1)") >= 3
    many = np.linspace(0, 1, 5000)
    chart = line_chart("t", [Series("s", many, np.where(many > 0.5, np.nan, many))], x_label="x")
    points = chart.split('points="')[1].split('"')[0].split()
    assert 100 < len(points) <= 300
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= 380
        assert 0 <= y <= 250


def test_a_logarithmic_chart_leaves_out_zero_and_an_empty_one_is_nothing():
    chart = line_chart(
        "t", [Series("s", np.arange(4.0), np.array([0.0, 1e-3, 1e-3, 1e-4]))], x_label="x", logarithmic=True
    )
    assert len(chart.split('points="')[1].split('"')[0].split()) == 3
    assert line_chart("t", [Series("s", np.arange(2.0), np.full(2, np.nan))], x_label="x") == ""
