"""The network's shapes, its parts, and what must hold of any input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import NETWORK

from mfg_jax.models import MFGNet, MFGNetOutput, parts, resnet
from mfg_jax.models.batch_norm import BatchNorm
from mfg_jax.models.instance_batch_norm import InstanceBatchNorm

SMALL = {"num_identities": 11} | NETWORK


def _images(count: int = 2, size: int = 48) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (count, size, size, 3))


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def _init(model: MFGNet, images: jax.Array) -> dict:
    return model.init(jax.random.key(0), images, train=False)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: MFGNet, variables: dict, images: jax.Array) -> MFGNetOutput:
    return model.apply(variables, images, train=False)


def test_eight_vectors_make_an_embedding_of_unit_norm():
    model = MFGNet(**SMALL)
    images = _images()
    output = _apply(model, _init(model, images), images)
    assert output.embedding.shape == (2, 8 * 16)
    assert output.logits.shape == (8, 2, 11)
    assert output.triplet_features.shape == (3, 2, 16)
    assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.linalg.norm(output.embedding, axis=1), 1.0, rtol=1e-5)


def test_the_papers_setting_has_a_2048_wide_embedding_and_a_16_row_map():
    model = MFGNet(num_identities=2811)
    images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    output, state = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True),
        images,
    )
    assert output.embedding.shape == (2, 2048)
    maps = state["intermediates"]
    assert maps["trunk"]["__call__"][0].shape == (2, 16, 16, 1024)
    assert maps["branch3"]["stage4"]["__call__"][0].shape == (2, 16, 16, 2048)


@pytest.mark.parametrize("depth", [18, 50])
def test_a_global_only_network_has_a_published_resnets_parameters(depth):
    # torchvision's counts: ResNet-18 11,689,512 and ResNet-50 25,557,032, less their classifiers (with biases).
    expected = {18: 11_689_512 - (512 * 1000 + 1000), 50: 25_557_032 - (2048 * 1000 + 1000)}[depth]
    model = MFGNet(num_identities=7, depth=depth, granularities=(1,), attention="none")
    params = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 128, 128, 3)), train=False)["params"]
    )
    head = params.pop("head1_global")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    assert set(head) == {"reduce", "norm", "classify"}


@pytest.mark.parametrize(("attention", "pooling"), [("none", "average"), ("branch", "max"), ("block", "gem")])
def test_every_setting_gives_finite_gradients(attention, pooling):
    model = MFGNet(**SMALL, attention=attention, pooling=pooling)
    images = _images(4)
    variables = _init(model, images)

    def total(params):
        output, _ = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(output.logits**2) + jnp.sum(output.triplet_features**2)

    gradients = jax.jit(jax.grad(total))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["head3_part3"]))


@pytest.mark.parametrize("ibn", [False, True])
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(ibn):
    images = _images(4)
    variables = _init(MFGNet(**SMALL, ibn=ibn), images)
    exact = _apply(MFGNet(**SMALL, ibn=ibn), variables, images).embedding
    rounded = MFGNet(**SMALL, ibn=ibn, dtype="bfloat16")
    near = _apply(rounded, variables, images).embedding
    initial = _init(rounded, images)
    assert near.dtype == jnp.float32
    assert np.sum(exact * near, axis=1).min() > 0.99
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}


def test_an_image_is_embedded_alike_in_any_batch():
    model = MFGNet(**SMALL)
    images = _images(5)
    variables = _init(model, images)
    together = _apply(model, variables, images).embedding
    alone = [_apply(model, variables, images[i : i + 1]).embedding for i in range(5)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)


def test_a_stripe_sees_its_rows_alone():
    x = np.abs(np.random.default_rng(0).normal(size=(1, 16, 4, 3))).astype(np.float32)
    for top, bottom in parts.equal_bounds(16, 3):
        changed = x.copy()
        changed[:, :top] += 1
        changed[:, bottom:] += 1
        for pooling in ("average", "max", "gem"):
            np.testing.assert_array_equal(
                parts.pool(jnp.asarray(x[:, top:bottom]), pooling),
                parts.pool(jnp.asarray(changed[:, top:bottom]), pooling),
            )


@pytest.mark.parametrize("pooling", ["average", "max", "gem"])
@pytest.mark.parametrize("granularity", [1, 3, (2, 2)])
def test_a_map_pooled_with_its_parts_is_pooled_as_alone_with_the_same_gradient(granularity, pooling):
    # No two places are equal: at ties a maximum's gradient may go to either.
    x = np.random.default_rng(0).permutation(2 * 7 * 4 * 3).reshape(2, 7, 4, 3).astype(np.float32)
    weights = jnp.asarray([0.5, -2.0, 3.0])

    def together(x):
        whole, of_parts = parts.pool_with_parts(x, granularity, pooling)
        return jnp.sum(weights[None] * whole), (whole, of_parts)

    def alone(x):
        whole = parts.pool(x, pooling)
        return jnp.sum(weights[None] * whole), whole

    gradient, (whole, of_parts) = jax.grad(together, has_aux=True)(x)
    expected_gradient, expected = jax.grad(alone, has_aux=True)(x)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)
    pieces = [] if granularity == 1 else parts.cut(jnp.asarray(x), granularity)
    assert len(of_parts) == len(pieces)
    for vector, piece in zip(of_parts, pieces, strict=True):
        np.testing.assert_array_equal(vector, parts.pool(piece, pooling))


@pytest.mark.parametrize("rows", range(1, 20))
def test_stripes_partition_the_rows_as_equally_as_possible(rows):
    for stripes in range(1, rows + 1):
        bounds = parts.equal_bounds(rows, stripes)
        assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
        heights = [stop - start for start, stop in bounds]
        assert max(heights) - min(heights) <= 1
        assert heights == sorted(heights, reverse=True)
    assert parts.equal_bounds(16, 3) == ((0, 6), (6, 11), (11, 16))


def test_too_many_stripes_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="3 rows cannot be cut into 4 parts: use larger images"):
        parts.equal_bounds(3, 4)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_max_pooling_is_the_maximum_of_each_window(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = -(-size[0] // 2), -(-size[1] // 2)
    expected = np.array(
        [
            [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(columns)]
            for i in range(rows)
        ]
    ).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(resnet.max_pool_3x3(jnp.asarray(x)), expected)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="attention is 'both'; it is one of none, branch, block"):
        _init(MFGNet(**SMALL, attention="both"), _images())
    with pytest.raises(ValueError, match="pooling is 'average', 'max' or 'gem', not 'sum'"):
        _init(MFGNet(**SMALL, pooling="sum"), _images())


@pytest.mark.parametrize(
    ("settings", "vectors", "classified", "mined", "embedded"),
    [
        ({"granularities": (1, 2, (2, 2)), "triplet_vectors": "all"}, 9, 9, 9, 9),
        ({"granularities": (1, (1, 3)), "identity_vectors": "parts"}, 5, 3, 2, 5),
        ({"granularities": (6,), "branch_globals": False, "triplet_vectors": "none"}, 6, 6, 0, 6),
        ({"granularities": (1, 3), "branch_globals": False, "embedding_vectors": "globals"}, 4, 4, 1, 1),
        ({"granularities": (1, 2), "embedding_vectors": "parts"}, 4, 4, 2, 2),
    ],
)
def test_each_choice_of_vectors_takes_those_it_names(settings, vectors, classified, mined, embedded):
    model = MFGNet(**SMALL, **settings)
    images = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.float32)
    output, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
    )
    heads = [head for name, head in variables["params"].items() if name.startswith("head")]
    assert len(heads) == vectors
    assert sum("classify" in head for head in heads) == classified
    assert output.logits.shape == (classified, 2, 11)
    assert output.triplet_features.shape[0] == mined
    assert output.embedding.shape == (2, embedded * 16)


@pytest.mark.parametrize(
    ("place", "shared", "own"),
    [
        ((2, 0), {"stem", "stage1"}, {"stage2": 4, "stage3": 6, "stage4": 3}),
        ((3, 1), {"stem", "stage1", "stage2", "stage3"}, {"stage3": 5, "stage4": 3}),
        ((4, 0), {"stem", "stage1", "stage2", "stage3"}, {"stage4": 3}),
        ((5, 0), {"stem", "stage1", "stage2", "stage3", "stage4"}, {}),
    ],
)
def test_branches_begin_where_they_are_told_and_every_block_is_there_once(place, shared, own):
    model = MFGNet(num_identities=3, depth=34, width=8, head_width=0, branch_from=place, attention="none")
    params = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)["params"]
    )
    assert set(params["trunk"]) == shared
    branch = params.get("branch2", {})
    assert {stage: len(blocks) for stage, blocks in branch.items()} == own
    for number, blocks in enumerate(resnet.STAGE_BLOCKS[34], start=1):
        names = [*params["trunk"].get(f"stage{number}", {}), *branch.get(f"stage{number}", {})]
        assert names == [f"block{block}" for block in range(blocks)]


def test_instance_normalisation_removes_what_a_camera_does_to_half_of_the_channels():
    layer = InstanceBatchNorm(functools.partial(BatchNorm, use_running_average=True))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
    variables = layer.init(jax.random.key(1), x)
    brighter = 3.0 * x + 30.0
    before, after = layer.apply(variables, x), layer.apply(variables, brighter)
    np.testing.assert_allclose(after[..., :4], before[..., :4], atol=1e-3)
    assert np.abs(after[..., 4:] - before[..., 4:]).min() > 1e-3


def test_ibn_leaves_stage_four_and_the_parameter_count_as_they_are():
    def shapes(ibn: bool) -> dict:
        model = MFGNet(num_identities=3, width=8, granularities=(1,), ibn=ibn, attention="none")
        return jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)["params"]
        )

    plain, mixed = shapes(False), shapes(True)
    assert sum(leaf.size for leaf in jax.tree.leaves(plain)) == sum(
        leaf.size for leaf in jax.tree.leaves(mixed)
    )
    assert set(mixed["trunk"]["stage1"]["block0"]["norm1"]) == {"instance", "batch"}
    assert set(mixed["branch1"]["stage4"]["block0"]["norm1"]) == {"scale", "bias"}


def test_without_a_bnneck_one_vector_is_mined_classified_and_embedded():
    model = MFGNet(**SMALL, granularities=(1,), bnneck=False)
    images = _images()
    output = _apply(model, _init(model, images), images)
    vector = np.asarray(output.triplet_features[0])
    np.testing.assert_allclose(
        output.embedding, vector / np.linalg.norm(vector, axis=1, keepdims=True), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"branch_from": (1, 0)}, r"branch_from is \(1, 0\); it is \(stage, block\)"),
        ({"branch_from": (3, 9)}, "branch_from is"),
        ({"granularities": (1,), "embedding_vectors": "parts"}, "embedding_vectors is 'parts', but"),
        ({"granularities": (2,), "branch_globals": False}, "triplet_vectors is 'globals', but"),
        ({"identity_vectors": "none"}, "identity_vectors is 'none'; it is one of all, globals, parts"),
    ],
)
def test_settings_that_contradict_each_other_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        _init(MFGNet(**SMALL, **settings), _images())
