"""Published weights in the network: which tensor goes where, that none is forgotten, and what is said of a misfit."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet
from mfg_jax.models.pretrained import Report, load_pretrained

# The published networks, narrow: names and structure are theirs.
SETTINGS = {"num_identities": 5, "depth": 18, "width": 8, "head_width": 8, "granularities": (1, 2)}
WIDTH = 8


def resnet_tensors(
    blocks: tuple[int, ...] = (2, 2, 2, 2), *, bottleneck: bool = False, se: bool = False, ibn: bool = False
) -> dict[str, np.ndarray]:
    """A ResNet's state dict, as torchvision, timm and IBN-Net name it, of random values."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        tensors[f"{name}.weight"] = rng.normal(size=(outputs, inputs, size, size)).astype(np.float32)

    def norm(name: str, channels: int, running: bool = True) -> None:
        kinds = ("weight", "bias", "running_mean", "running_var") if running else ("weight", "bias")
        for kind in kinds:
            tensors[f"{name}.{kind}"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        if running:
            tensors[f"{name}.num_batches_tracked"] = np.array(7, np.int64)

    conv("conv1", WIDTH, 3, 7)
    norm("bn1", WIDTH)
    inputs, expansion = WIDTH, 4 if bottleneck else 1
    for stage, count in enumerate(blocks, 1):
        features = WIDTH * 2 ** (stage - 1)
        outputs = features * expansion
        for block in range(count):
            name = f"layer{stage}.{block}"
            shapes = [(features, inputs, 1), (features, features, 3), (outputs, features, 1)]
            for number, shape in enumerate(
                shapes if bottleneck else [(features, inputs, 3), (features, features, 3)], 1
            ):
                conv(f"{name}.conv{number}", *shape)
                if number == 1 and ibn and stage < 4:
                    norm(f"{name}.bn1.IN", features // 2, running=False)
                    norm(f"{name}.bn1.BN", features - features // 2)
                else:
                    norm(f"{name}.bn{number}", shape[0])
            if se:
                hidden = max(4, outputs // 16)
                conv(f"{name}.se.fc1", hidden, outputs, 1)
                conv(f"{name}.se.fc2", outputs, hidden, 1)
                tensors[f"{name}.se.fc1.bias"] = rng.normal(size=hidden).astype(np.float32)
                tensors[f"{name}.se.fc2.bias"] = rng.normal(size=outputs).astype(np.float32)
            if block == 0 and (stage > 1 or bottleneck):
                conv(f"{name}.downsample.0", outputs, inputs, 1)
                norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    tensors["fc.weight"] = rng.normal(size=(10, inputs)).astype(np.float32)
    tensors["fc.bias"] = rng.normal(size=10).astype(np.float32)
    return tensors


@functools.cache
def _variables(**changes: object) -> dict:
    """Of a network of `SETTINGS` with changes; every value is -1, which no published tensor here has."""
    model = MFGNet(**(SETTINGS | changes))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.float32), train=False)
    )
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, -1.0, leaf.dtype), dict(shapes))


def _flat(variables: Mapping) -> dict[str, np.ndarray]:
    return {
        "/".join(entry.key for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def _check_complete(report: Report, tensors: Mapping, variables: Mapping) -> None:
    """Each tensor of the file is used or ignored, each of the network filled or left: once."""
    keys = [used.key for used in report.used] + [key for key, _ in report.ignored]
    assert sorted(keys) == sorted(
        key.removeprefix(report.prefix) if key not in keys else key for key in tensors
    )
    places = [place for used in report.used for place in used.places] + [name for name, _ in report.initial]
    assert sorted(places) == sorted(_flat(variables))


def test_every_branch_starts_from_the_one_published_stage():
    tensors = resnet_tensors()
    variables = _variables()
    loaded, report = load_pretrained(variables, tensors)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), loaded) == jax.tree.map(
        lambda x: (x.shape, x.dtype), variables
    )
    flat = _flat(loaded)
    stem = flat["params/trunk/stem/conv/kernel"]
    np.testing.assert_array_equal(stem[3, 5, 2, 7], tensors["conv1.weight"][7, 2, 3, 5])
    np.testing.assert_array_equal(flat["batch_stats/trunk/stem/norm/var"], tensors["bn1.running_var"])
    for branch in ("branch1", "branch2"):
        block = f"params/{branch}/stage4/block0"
        np.testing.assert_array_equal(
            flat[f"{block}/shortcut_conv/matmul/kernel"],
            tensors["layer4.0.downsample.0.weight"][:, :, 0, 0].T,
        )
        np.testing.assert_array_equal(flat[f"{block}/norm2/scale"], tensors["layer4.0.bn2.weight"])
        np.testing.assert_array_equal(
            flat[f"batch_stats/{branch}/stage3/block1/norm1/mean"], tensors["layer3.1.bn1.running_mean"]
        )
    initial = {name for name, _ in report.initial}
    assert {name for name, array in flat.items() if (array == -1).all()} == initial
    assert {name.split("/")[1] for name in initial} == {
        "branch1", "branch2", "head1_global", "head2_global", "head2_part1", "head2_part2",
    }  # fmt: skip
    assert all("head" in name or "/attention/" in name for name in initial)
    _check_complete(report, tensors, variables)
    # No two leaves share memory: the training step gives each away.
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(loaded)]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(
    ("depth", "blocks", "branch_from", "kind"),
    [
        (34, (3, 4, 6, 3), (4, 0), {}),
        (50, (3, 4, 6, 3), (3, 1), {"se": True}),
        (50, (3, 4, 6, 3), (5, 0), {"ibn": True}),
        (101, (3, 4, 23, 3), (3, 23), {}),
    ],
)
def test_every_kind_of_network_is_filled_but_for_its_heads(depth, blocks, branch_from, kind):
    tensors = resnet_tensors(blocks, bottleneck=depth > 34, **kind)
    attention = "block" if kind.get("se") else "none"
    variables = _variables(
        depth=depth, attention=attention, ibn=kind.get("ibn", False), branch_from=branch_from
    )
    _, report = load_pretrained(variables, tensors)
    _check_complete(report, tensors, variables)
    assert all(name.split("/")[1].startswith("head") for name, _ in report.initial)
    name = f"{'SE-' if kind.get('se') else ''}ResNet-{depth}{'-IBN-a' if kind.get('ibn') else ''}"
    assert report.source == f"{name} (first convolution (8, 3, 7, 7))"
    assert {reason for _, reason in report.ignored} == {
        "PyTorch's count of batches", "head of the network it was trained in",
    }  # fmt: skip


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "_orig_mod.model."])
def test_prefixes_are_removed_and_a_frameworks_own_heads_ignored(prefix):
    tensors = resnet_tensors()
    expected, _ = load_pretrained(_variables(), tensors)
    outer = "module." if prefix.startswith("module.") else ""
    wrapped = {prefix + key: tensor for key, tensor in tensors.items()}
    if prefix.endswith("backbone."):
        wrapped |= {f"{outer}heads.bnneck.weight": np.ones(3, np.float32), f"{outer}pixel_mean": np.ones(3)}
    loaded, report = load_pretrained(_variables(), wrapped)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    _check_complete(report, wrapped, loaded)
    assert report.prefix == prefix
    assert f'"{prefix}" removed from the names' in str(report)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_converted_and_the_report_says_so(dtype):
    tensors = resnet_tensors()
    stored = {
        key: tensor.astype(jnp.dtype(dtype)) if tensor.dtype == np.float32 else tensor
        for key, tensor in tensors.items()
    }
    loaded, report = load_pretrained(_variables(), stored)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(
        loaded["params"]["trunk"]["stem"]["norm"]["scale"], stored["bn1.weight"].astype(np.float32)
    )
    assert f"{len(report.used)} converted from {dtype}" in str(report)


def test_the_table_is_short_and_the_listing_names_everything():
    tensors = resnet_tensors()
    _, report = load_pretrained(_variables(), tensors)
    assert len(str(report).splitlines()) == 5
    assert str(report).endswith("branch*/attention, head*")
    listing = report.listing()
    assert all(f" {key}" in listing for key in tensors)
    assert all(name in listing for name in _flat(_variables()))


def _without(*names: str):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key not in names}


def _with(**added: np.ndarray):
    return lambda tensors: tensors | {key.replace("__", "."): value for key, value in added.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("layer2.0.bn1.running_var"), r"Missing in the file \(1\): layer2\.0\.bn1\.running_var\."),
        (_with(layer2__0__mystery=np.ones(3)), r"Without a place in the network \(1\): layer2\.0\.mystery\."),
        (
            _with(conv1__weight=np.ones((8, 3, 3, 3), np.float32)),
            r"Of another shape \(1\): conv1\.weight is \(8, 3, 3, 3\), expected \(8, 3, 7, 7\)\.",
        ),
        (_with(bn1__bias=np.full(8, np.nan, np.float32)), r"bn1\.bias holds values that are not finite"),
        (_with(bn1__bias=np.ones(8, np.int8)), r"bn1\.bias holds int8; expected floating-point numbers"),
        (
            _with(module__bn1__bias=np.ones(8), module__conv1__weight=np.ones(8)),
            r"Without a place .*module\.bn1\.bias",
        ),
    ],
    ids=["missing", "extra", "shape", "nan", "quantised", "two_networks"],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(UserError, match=message):
        load_pretrained(_variables(), change(resnet_tensors()))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            lambda: resnet_tensors((3, 4, 6, 3)),
            "the file holds ResNet-34.*the network takes ResNet-18.*depth = 34",
        ),
        (
            lambda: resnet_tensors((3, 4, 6, 3), bottleneck=True, se=True),
            r'SE-ResNet-50.*Without a place .*attention = "block", depth = 50 would fit',
        ),
        (lambda: resnet_tensors(ibn=True), "ResNet-18-IBN-a.*ibn = True would fit"),
        (
            lambda: {key.replace("layer1.0.conv1", "layer0.conv1"): x for key, x in resnet_tensors().items()},
            "legacy_seresnet50.* take timm's seresnet50 instead",
        ),
        (
            lambda: {"encoder.embed": np.ones(3, np.float32)},
            "no residual network that is known here.*Missing",
        ),
    ],
    ids=["depth", "se_bottleneck", "ibn", "legacy", "unknown"],
)
def test_another_network_is_recognised_and_fitting_settings_are_named(tensors, message):
    with pytest.raises(UserError, match=message):
        load_pretrained(_variables(), tensors())


def test_attention_in_blocks_is_not_left_at_random_among_published_weights():
    with pytest.raises(UserError, match=r'Missing in the file \(32\): layer1.*attention other than "block"'):
        load_pretrained(_variables(attention="block"), resnet_tensors())
