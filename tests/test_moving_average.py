"""Moving averages: their definition, through a checkpoint and on, and that they are what is evaluated and loaded."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from mfg_jax import checkpoint, evaluation, parallel, train, train_start, train_step
from mfg_jax.models import MFGNet
from mfg_jax.moving_average import update_average

MODEL = {"depth": 10, "width": 8, "stem_stride": 2, "head_width": 8, "granularities": (1,)}
SIZE = 16
DECAY = 0.5


def _oracle(values: list[np.ndarray], decay: float) -> np.ndarray:
    """Of the initial value and those after each step, in float64."""
    average = values[0].astype(np.float64)
    for done, value in enumerate(values[1:]):
        kept = min(decay, (1 + done) / (10 + done))
        average = kept * average + (1 - kept) * value
    return average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_an_average_is_its_definition(decay):
    values = list(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))
    average = {"kernel": jnp.asarray(values[0])}
    for done, value in enumerate(values[1:]):
        average = update_average(average, {"kernel": jnp.asarray(value)}, decay, jnp.int32(done))
    np.testing.assert_allclose(average["kernel"], _oracle(values, decay), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_averages_follow_training_and_go_on_after_a_checkpoint_bit_for_bit(tmp_path):
    mesh = parallel.make_mesh(jax.devices()[:1])
    model = MFGNet(num_identities=3, axis_name=parallel.AXIS, **MODEL)
    optimizer = optax.sgd(0.1, momentum=0.9)
    augmentation = dict.fromkeys(("flip_probability", "erase_probability"), 0.0) | dict.fromkeys(
        ("brightness", "contrast", "saturation"), 0.0
    )
    step = parallel.map_step(
        train_step.make_train_step(
            model,
            optimizer,
            seed=0,
            weights=train_step.LossWeights(**default.get_config().loss),
            augmentation=augmentation | {"crop_padding": 0},
            average_decay=DECAY,
        ),
        mesh,
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8),
        "label": np.array([0, 0, 1, 1, 2, 2], np.int32),
    }

    def start() -> train_step.TrainState:
        state = train_step.create_train_state(
            model, optimizer, seed=0, height=SIZE, width=SIZE, averaged=True
        )
        return parallel.replicate(state, mesh)

    state = start()
    states = [jax.device_get(state)]
    for _ in range(4):
        state, _ = step(state, parallel.place_batch(batch, mesh))
        states.append(jax.device_get(state))

    # The definition, leaf by leaf: parameters and batch statistics.
    for averaged, *values in zip(
        jax.tree.leaves(states[-1].evaluated), *(jax.tree.leaves(s.variables) for s in states), strict=True
    ):
        np.testing.assert_allclose(averaged, _oracle(values, DECAY), rtol=1e-4, atol=1e-5)

    half_way = parallel.replicate(states[2], mesh)
    with checkpoint.open_manager(tmp_path, keep_latest=1, best_metric=None) as manager:
        checkpoint.save(
            manager, 2, variables=half_way.evaluated, optimizer=half_way.unevaluated, description={}
        )
        manager.wait_until_finished()
        restored = train_start.restore_state(manager, start(), lambda step, description: None)
    assert restored.step == 2
    resumed = restored.state
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), states[2])
    for _ in range(2):
        resumed, _ = step(resumed, parallel.place_batch(batch, mesh))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), states[4])

    # What a program loads is the averages, which differ from the weights they are of.
    loaded, _, _ = checkpoint.load_variables(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded, states[2].average)
    kernels = [tree["params"]["trunk"]["stem"]["conv"]["kernel"] for tree in (loaded, states[2].variables)]
    assert not np.array_equal(*kernels)


def test_without_averages_a_checkpoint_holds_what_it_did():
    state = train_step.TrainState(
        step=jnp.int32(1),
        params={"kernel": jnp.ones(2)},
        batch_stats={"mean": jnp.zeros(2)},
        opt_state=(jnp.ones(2),),
    )
    assert state.evaluated == state.variables
    assert state.unevaluated is state.opt_state
    assert len(jax.tree.leaves(state)) == 4


@pytest.mark.slow
def test_a_run_evaluates_and_saves_its_averages(vric_release, tmp_path, monkeypatch):
    config = importlib.import_module("configs.vric").get_config()
    config.model.update(MODEL)
    config.data.update({"manual_dir": str(vric_release), "data_dir": str(tmp_path / "data")})
    config.data.update({"height": 32, "width": 32})
    config.train.max_steps = 3
    config.optimizer.ema_decay = 0.9
    evaluated = []
    evaluate = evaluation.evaluate_variables

    def recording(forward, variables, *arguments, **options):
        evaluated.append(jax.device_get(variables))
        return evaluate(forward, variables, *arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate_variables", recording)
    # Optax's own schedules mix floats and integer steps.
    with jax.numpy_dtype_promotion("standard"):
        train.train_and_evaluate(config, pathlib.Path(tmp_path / "run"))
    saved, _, step = checkpoint.load_variables(tmp_path / "run" / "checkpoints")
    assert step == 3
    assert len(evaluated) == 1
    jax.tree.map(np.testing.assert_array_equal, evaluated[0], saved)
