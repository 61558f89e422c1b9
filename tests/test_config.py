"""The shipped configurations: each loads, passes its checks, and names a protocol whose splits its dataset has."""

import copy
import importlib
import pathlib
import re

import jax
import pytest

from configs.networks import NETWORKS
from mfg_jax import config as configs
from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet
from mfg_jax.retrieval.protocols import PROTOCOLS
from tfds_builders import build

NAMES = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem not in ("__init__", "default", "networks")
)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_configuration_passes_its_checks(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    configs.check(config, devices=1, processes=1)
    MFGNet(num_identities=10, **config.model)
    assert config.data.dataset in build.PACKAGES


def test_every_protocol_of_a_release_has_its_splits():
    for dataset, start in configs.PROTOCOLS_OF.items():
        release = getattr(importlib.import_module(build.PACKAGES[dataset]), "RELEASE", None)
        if release is None or not release.counts:
            continue  # its splits are the user's
        protocols = [protocol for name, protocol in PROTOCOLS.items() if name.startswith(start)]
        assert protocols
        for protocol in protocols:
            assert set(protocol.splits) <= set(release.counts)


def test_resuming_allows_what_changes_no_weight_and_refuses_the_rest():
    saved = {
        "config": {
            "seed": 0,
            "train": {"epochs": 10, "batch_size": 32},
            "data": {"threads": 2, "height": 64},
        },
        "training_images": {"count": 100, "fingerprint": "abc"},
    }
    other = copy.deepcopy(saved)
    other["config"]["train"]["epochs"] = 20
    other["config"]["data"]["threads"] = 8
    configs.check_same_run(saved, other, "runs/x")
    other["config"]["data"]["height"] = 96
    other["training_images"]["fingerprint"] = "abd"
    with pytest.raises(
        UserError,
        match=r"config\.data\.height was 64 and is now 96; training_images\.fingerprint was 'abc' and is now 'abd'",
    ):
        configs.check_same_run(saved, other, "runs/x")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.depth", 19, "config.model.depth is 19; it is one of 10, 18, 34, 50, 101"),
        ("model.granularities", (2, 2), "one or more different whole numbers of stripes"),
        ("model.granularities", (0, 2), "one or more different whole numbers of stripes"),
        ("model.granularities", (), "one or more different whole numbers of stripes"),
        ("model.attention", "foo", "config.model.attention is 'foo'; it is one of none, branch, block"),
        ("model.pooling", "sum", "config.model.pooling is 'sum'; it is one of average, max, gem"),
        ("model.attention_reduction", 0, "config.model.attention_reduction is 0; it has to be at least 1"),
        ("model.head_width", -3, "config.model.head_width is -3; it has to be at least 0"),
        ("model.dtype", "float16", "config.model.dtype is 'float16'; it is one of float32, bfloat16"),
        ("optimizer.name", "adamm", "config.optimizer.name is 'adamm'; it is one of sgd, adam, adamw"),
        (
            "loss.metric_loss",
            "triplets",
            "config.loss.metric_loss is 'triplets'; it is one of triplet, weighted_triplet, circle, none",
        ),
        ("loss.circle_margin", -0.1, "config.loss.circle_margin is -0.1; it has to be from 0 to 1"),
        ("loss.circle_scale", 0.0, "config.loss.circle_scale is 0.0; it has to be at least 1"),
        ("optimizer.ema_decay", 1.5, "config.optimizer.ema_decay is 1.5; it has to be from 0 to 1"),
        ("optimizer.decay_epochs", (30, 15), "it is whole epochs of 1 or more, ascending"),
        ("augment.crop_padding", -2, "config.augment.crop_padding is -2; it has to be at least 0"),
        (
            "augment.erase_probability",
            1.5,
            "config.augment.erase_probability is 1.5; it has to be from 0 to 1",
        ),
        ("seed", -1, "config.seed is -1"),
        ("train.max_steps", 0, "config.train.max_steps is 0; it has to be at least 1"),
        ("checkpoint.every_steps", -3, "config.checkpoint.every_steps is -3; it has to be at least 1"),
        ("train.images_per_identity", 1, "config.train.images_per_identity is 1; it has to be at least 2"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_those_that_can(field, value, message):
    config = importlib.import_module("configs.vric").get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=re.escape(message)):
        configs.check(config, devices=1, processes=1)


@pytest.mark.parametrize(("batch_size", "devices"), [(32, 6), (36, 8), (30, 4), (2, 3), (100, 7)])
def test_a_suggested_batch_size_is_one_that_passes(batch_size, devices):
    config = importlib.import_module("configs.vric").get_config()
    config.train.batch_size = batch_size
    config.evaluate.batch_size = 5 * devices
    with pytest.raises(UserError) as refused:
        configs.check(config, devices=devices, processes=1)
    config.train.batch_size = int(re.search(r"(?:Use|such as) (\d+)", str(refused.value))[1])
    configs.check(config, devices=devices, processes=1)


def test_the_nearest_field_is_found_by_its_last_part_first():
    known = ["optimizer.base_rate", "optimizer.name", "model.depth", "train.epochs"]
    assert configs.nearest_field(known, "modl.depth") == "model.depth"
    assert configs.nearest_field(known, "optimizer.rate") == "optimizer.base_rate"
    assert configs.nearest_field(known, "train.epoch") == "train.epochs"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["vric", "synthetic"])
def test_every_named_network_fits_the_configurations(name, network):
    config = importlib.import_module(f"configs.{name}").get_config(network)
    configs.check(config, devices=1, processes=1)
    model = MFGNet(num_identities=10, **config.model)
    image = jax.ShapeDtypeStruct((1, config.data.height, config.data.width, 3), "float32")
    output = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], image)
    assert output.embedding.shape[0] == 1
