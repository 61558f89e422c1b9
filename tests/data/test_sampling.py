"""P x K sampling: what every batch holds, how often each image comes, and that a step alone decides."""

import numpy as np
import pytest

from mfg_jax.data import sampling


@pytest.fixture
def ids() -> np.ndarray:
    """Identities of 3 to 11 images, numbered with gaps and from zero, in no order."""
    rng = np.random.default_rng(0)
    names = rng.permutation(1000)[:30]
    names[0] = 0
    return rng.permutation(np.repeat(names, 3 + np.arange(30) % 9))


def test_labels_number_the_identities_in_ascending_order(ids):
    index = sampling.index_identities(ids)
    assert index.num_identities == 30
    np.testing.assert_array_equal(np.unique(ids)[index.labels], ids)
    for label, images in enumerate(index.images):
        np.testing.assert_array_equal(np.flatnonzero(index.labels == label), images)


def test_a_batch_is_p_different_identities_of_k_images_each(ids):
    index = sampling.index_identities(ids)
    for step in range(50):
        chosen = sampling.batch_indices(
            index, seed=1, step=step, identities_per_batch=7, images_per_identity=3
        )
        labels = index.labels[chosen].reshape(7, 3)
        assert (labels == labels[:, :1]).all()
        assert len(np.unique(labels[:, 0])) == 7
        # Every identity here has three images, so none comes twice in a batch.
        assert len(np.unique(chosen)) == 21


def test_few_images_are_repeated_and_all_of_them_are_used():
    index = sampling.index_identities(np.array([5, 5, 5, 9, 9, 9, 9, 9, 9, 9, 9, 9]))
    chosen = sampling.batch_indices(index, seed=0, step=0, identities_per_batch=2, images_per_identity=4)
    few = chosen[index.labels[chosen] == 0]
    assert len(few) == 4
    assert set(few.tolist()) == {0, 1, 2}


def test_every_image_of_an_identity_is_seen_about_equally_often(ids):
    index = sampling.index_identities(ids)
    seen = np.zeros(len(ids), int)
    for step in range(30 // 6 * 60):
        chosen = sampling.batch_indices(
            index, seed=2, step=step, identities_per_batch=6, images_per_identity=3
        )
        np.add.at(seen, chosen, 1)
    for images in index.images:
        # 60 passes of 3 images. What a shuffling cuts off differs from cycle to cycle.
        expected = 180 / len(images)
        assert abs(seen[images] - expected).max() <= 0.35 * expected + 1


def test_a_step_is_a_function_of_seed_and_number(ids):
    index = sampling.index_identities(ids)

    def draw(seed: int, step: int) -> list[int]:
        return sampling.batch_indices(
            index, seed=seed, step=step, identities_per_batch=5, images_per_identity=4
        ).tolist()

    forwards = [draw(0, step) for step in range(20)]
    backwards = [draw(0, step) for step in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len({tuple(batch) for batch in forwards}) == 20
    assert draw(1, 0) != draw(0, 0)


def test_too_few_identities_is_an_error(ids):
    index = sampling.index_identities(ids)
    with pytest.raises(ValueError, match="31 identities cannot be drawn from 30"):
        sampling.batch_indices(index, seed=0, step=0, identities_per_batch=31, images_per_identity=2)
