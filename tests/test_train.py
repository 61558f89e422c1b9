"""The training step: the same on any number of devices and by either mapping, and a sound gradient."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from configs import default
from mfg_jax import accumulation, checkpoint, compilation, losses, parallel, train_loop, train_step
from mfg_jax.data import augment
from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet
from mfg_jax.step_records import StepRecord, check_finite, mean_metrics

MODEL = {
    "num_identities": 6,
    "depth": 10,
    "width": 8,
    "stem_stride": 2,
    "head_width": 16,
    "granularities": (1, 2),
}
SIZE = 32
AUGMENTATION = {
    "flip_probability": 0.5,
    "crop_padding": 2,
    "erase_probability": 0.5,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
}
WEIGHTS = train_step.LossWeights(**default.get_config().loss)


@functools.cache
def _model() -> MFGNet:
    return MFGNet(axis_name=parallel.AXIS, **MODEL)


@functools.cache
def _optimizer() -> optax.GradientTransformation:
    return optax.sgd(0.02, momentum=0.9)


@functools.cache
def _initial_state() -> train_step.TrainState:
    """On the host: a step consumes what it is given."""
    return jax.device_get(
        train_step.create_train_state(_model(), _optimizer(), seed=3, height=SIZE, width=SIZE)
    )


def _batches(steps: int) -> list[dict[str, np.ndarray]]:
    """Batches of 8 images; identities are spread so that most triplets span devices."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8),
            "label": np.array([0, 1, 2, 3, 0, 1, 2, 3], np.int32),
        }
        for _ in range(steps)
    ]


@functools.cache
def _step(devices: int, mapping: str) -> tuple[Mesh, Callable]:
    mesh = parallel.make_mesh(jax.devices()[:devices])
    step = train_step.make_train_step(
        _model(), _optimizer(), seed=3, weights=WEIGHTS, augmentation=AUGMENTATION
    )
    return mesh, parallel.map_step(step, mesh, mapping)


def _run(devices: int, mapping: str, steps: int) -> tuple[list[float], train_step.TrainState]:
    mesh, step = _step(devices, mapping)
    state = parallel.replicate(_initial_state(), mesh)
    curve = []
    for batch in _batches(steps):
        state, metrics = step(state, parallel.place_batch(batch, mesh, mapping))
        curve.append(float(metrics["loss"]))
    return curve, jax.device_get(state)


@pytest.fixture(scope="module")
def on_one_device() -> tuple[list[float], train_step.TrainState]:
    """Losses and final state of ten steps on one device."""
    return _run(1, "shard_map", 10)


@pytest.mark.parametrize(
    ("devices", "mapping"), [(4, "shard_map"), pytest.param(4, "pmap", marks=pytest.mark.slow)]
)
def test_losses_do_not_depend_on_devices_or_mapping(on_one_device, devices, mapping):
    expected, expected_state = on_one_device
    curve, state = _run(devices, mapping, 10)
    np.testing.assert_allclose(curve, expected, rtol=1e-4)
    assert int(state.step) == 10
    # Running means and variances are of the global batch.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        state.batch_stats,
        expected_state.batch_stats,
    )


def test_a_step_is_bit_equal_to_itself(on_one_device):
    curve, state = _run(1, "shard_map", 10)
    assert curve == on_one_device[0]
    jax.tree.map(np.testing.assert_array_equal, state, on_one_device[1])


def test_four_devices_take_the_gradient_of_the_global_batch(on_one_device):
    """One step against the plain definition: no mapping, no axis, the whole batch at once."""
    state = _initial_state()
    model = MFGNet(**MODEL)
    batch = _batches(1)[0]
    labels = jnp.asarray(batch["label"])
    pairs = losses.find_pairs(labels, labels, jnp.arange(8, dtype=jnp.int32))

    @jax.jit
    def loss_and_gradient(params):
        def loss(params):
            keys = augment.image_keys(jnp.uint32(3), jnp.int32(0), jnp.int32(0), 8)
            images = augment.augment(keys, jnp.asarray(batch["image"]), **AUGMENTATION)
            output, _ = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            triplets = [
                losses.batch_hard_triplet(features, features, pairs, 0.3)
                for features in output.triplet_features
            ]
            return losses.smoothed_cross_entropy(output.logits, labels, 0.1) + sum(triplets) / len(triplets)

        return jax.value_and_grad(loss)(params)

    expected_loss, gradient = loss_and_gradient(state.params)
    mesh = parallel.make_mesh(jax.devices()[:4])
    # With this optimizer a step subtracts exactly the gradient.
    step = parallel.map_step(
        train_step.make_train_step(
            _model(), optax.sgd(1.0), seed=3, weights=WEIGHTS, augmentation=AUGMENTATION
        ),
        mesh,
    )
    before = state.replace(opt_state=optax.sgd(1.0).init(state.params))
    after, metrics = step(parallel.replicate(before, mesh), parallel.place_batch(batch, mesh))
    np.testing.assert_allclose(float(metrics["loss"]), float(expected_loss), rtol=1e-5)
    scale = float(optax.tree.norm(gradient))
    for old, new, slope in zip(
        *(jax.tree.leaves(tree) for tree in (state.params, after.params, gradient)), strict=True
    ):
        np.testing.assert_allclose(old - np.asarray(new), slope, atol=1e-5 * scale)


def test_the_gradient_in_slices_is_the_gradient_of_the_whole():
    """Of a loss that compares all images with each other; without batch normalisation nothing differs."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)}
    images = jnp.asarray(rng.normal(size=(12, 5)), jnp.float32)

    def forward(params, images):
        features = jnp.tanh(images @ params["kernel"])
        return {"features": jnp.stack([features, features**2])}, jnp.mean(images)

    def loss(outputs):
        features = outputs["features"]
        value = jnp.sum(jnp.einsum("vid,vjd->vij", features, features) ** 3)
        return value, {"loss": value}

    expected = jax.grad(lambda params: loss(forward(params, images)[0])[0])(params)
    for slices in (1, 3, 4):
        gradient, (metrics, statistics) = accumulation.gradient_in_slices(
            forward, loss, params, images, slices
        )
        np.testing.assert_allclose(gradient["kernel"], expected["kernel"], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], loss(forward(params, images)[0])[0], rtol=1e-6)
        np.testing.assert_allclose(statistics, jnp.mean(images), rtol=1e-5)


@pytest.mark.slow
def test_a_step_in_slices_is_the_step_at_once_where_the_slices_are_alike():
    """Two slices of the same images on each of two devices: batch statistics and mined distances are the same."""
    images = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    batch = {
        "image": images[[0, 1, 0, 1, 2, 3, 2, 3]],
        "label": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.int32),
    }
    nothing = {name: type(value)(0) for name, value in AUGMENTATION.items()}
    mesh = parallel.make_mesh(jax.devices()[:2])
    before = _initial_state().replace(opt_state=optax.sgd(1.0).init(_initial_state().params))
    results = []
    for slices in (1, 2):
        step = train_step.make_train_step(
            _model(),
            optax.sgd(1.0),
            seed=3,
            weights=WEIGHTS,
            augmentation=nothing,
            accumulation_steps=slices,
        )
        mapped = parallel.map_step(step, mesh)
        state, metrics = mapped(parallel.replicate(before, mesh), parallel.place_batch(batch, mesh))
        results.append(jax.device_get((state, metrics)))
    (whole, whole_metrics), (sliced, sliced_metrics) = results
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(sliced_metrics[name], value, rtol=1e-4)
    scale = float(whole_metrics["gradient_norm"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-5),
        whole.params,
        sliced.params,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        whole.batch_stats,
        sliced.batch_stats,
    )


@pytest.mark.slow
def test_rematerialisation_keeps_less_and_gives_the_same_gradient():
    state = _initial_state()
    images = jnp.asarray(np.random.default_rng(2).normal(size=(8, SIZE, SIZE, 3)), jnp.float32)
    gradients, kept = [], []
    for rematerialise in (False, True):
        model = MFGNet(rematerialise=rematerialise, **MODEL)

        def loss(params, model=model):
            variables = {"params": params, "batch_stats": state.batch_stats}
            output, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return jnp.mean(output.logits**2) + jnp.mean(output.triplet_features)

        gradients.append(jax.jit(jax.grad(loss))(state.params))
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], state.params)
        kept.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *gradients)
    assert kept[1] < 0.7 * kept[0]


def test_initial_weights_are_a_function_of_the_seed():
    one = _initial_state()
    other = train_step.create_train_state(_model(), _optimizer(), seed=4, height=SIZE, width=SIZE)
    assert not np.array_equal(
        one.params["trunk"]["stem"]["conv"]["kernel"], other.params["trunk"]["stem"]["conv"]["kernel"]
    )


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_what_is_not_finite_stops_training_and_names_step_images_and_checkpoint(name, tmp_path):
    def record(step: int, **metrics: float) -> StepRecord:
        values = {"loss": 2.0, "gradient_norm": 1.0} | metrics
        return StepRecord(step, {key: np.float32(value) for key, value in values.items()}, [step, 0])

    names = [f"{number}.jpg" for number in range(20)]
    assert mean_metrics([record(7), record(8, loss=4.0)])["loss"] == 3.0
    with checkpoint.open_manager(tmp_path, keep_latest=1, best_metric=None) as manager:
        check_finite([record(7), record(8)], names, manager)
        records = [record(7), record(8, **{name: np.nan}), record(9)]
        message = rf"At step 8 the {name.replace('_', ' ')} is nan.* {{}}.*: 8\.jpg, 0\.jpg\.$"
        with pytest.raises(UserError, match=message.format("no checkpoint had been saved")):
            check_finite(records, names, manager)
        array = {"x": jnp.zeros(3)}
        checkpoint.save(manager, 6, variables=array, optimizer=array, description={})
        with pytest.raises(
            UserError, match=message.format(r"the last good checkpoint is \S+/step_00000006\.")
        ):
            check_finite(records, names, manager)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_every_device_learns_that_one_was_asked_to_stop(mapping):
    mesh = parallel.make_mesh(jax.devices()[:4])
    step = parallel.map_step(
        train_loop.with_agreement(lambda state, batch: (state, {"images": jnp.sum(batch["image"])})),
        mesh,
        mapping,
    )
    for asked in ([False] * 8, [False] * 7 + [True]):
        batch = {"image": np.zeros((8, 2), np.float32), "stop": np.array(asked)}
        state = parallel.replicate(jnp.zeros(()), mesh)
        _, metrics = step(state, parallel.place_batch(batch, mesh, mapping))
        assert bool(metrics["stop"]) == any(asked)


def test_only_the_first_step_is_compiled_and_another_shape_is_noticed():
    mesh, step = _step(1, "shard_map")
    state = parallel.replicate(_initial_state(), mesh)
    compiled = []
    for batch in [*_batches(4), {name: values[:4] for name, values in _batches(1)[0].items()}]:
        placed = parallel.place_batch(batch, mesh)
        before = compilation.count()
        state, _ = step(state, placed)
        compiled.append(compilation.count() > before)
    assert compiled[1:] == [False, False, False, True]
