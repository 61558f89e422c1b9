"""The projector's files: what is read back is what was written, pictures at their places, one set at a time."""

import re

import cv2
import numpy as np
import pytest

from mfg_jax import projector


@pytest.mark.parametrize("count", [1, 4, 5, 10])
def test_the_files_read_back_are_what_was_written(tmp_path, count):
    rng = np.random.default_rng(count)
    features = rng.normal(size=(count, 7)).astype(np.float32)
    thumbnails = [rng.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(count)]
    names = [f"{number}\tof\n{count}.jpg" for number in range(count)]
    projector.write_projector(
        tmp_path, "test_step_00000005", features, {"name": names, "id": range(count)}, thumbnails
    )

    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_name: "test_step_00000005"' in config
    tensor_path, metadata_path, image_path = re.findall(r'_path: "(.*)"', config)
    tensors = np.loadtxt(tmp_path / tensor_path, delimiter="\t", ndmin=2)
    np.testing.assert_allclose(tensors, features, rtol=1e-5)
    lines = (tmp_path / metadata_path).read_text().splitlines()
    # Tabs and ends of lines in a name would make other columns and rows.
    assert lines == ["name\tid", *(f"{number} of {count}.jpg\t{number}" for number in range(count))]
    sprite = cv2.imread(str(tmp_path / image_path), cv2.IMREAD_COLOR_RGB)
    width, height = map(int, re.findall(r"single_image_dim: (\d+)", config))
    columns = sprite.shape[1] // width
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, columns)
        at = sprite[row * height : (row + 1) * height, column * width : (column + 1) * width]
        np.testing.assert_array_equal(at, thumbnail)
    assert sprite.shape[0] == sprite.shape[1]
    assert (columns - 1) ** 2 < count <= columns**2


def test_a_new_set_takes_the_place_of_the_old_one_and_of_half_a_one(tmp_path):
    def write(name: str, count: int) -> list[str]:
        features = np.full((count, 2), count, np.float32)
        labels = {"name": ["x"] * count, "id": [1] * count}
        projector.write_projector(tmp_path, name, features, labels, [np.zeros((4, 4, 3), np.uint8)] * count)
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))

    files = write("old", 3)
    (tmp_path / "projector.tmp").mkdir()  # killed while writing
    (tmp_path / "projector.tmp" / "tensors.tsv").write_text("1\t")
    assert write("new", 2) == files
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert config.count("embeddings") == 1
    assert "new" in config
    assert len((tmp_path / "projector" / "tensors.tsv").read_text().splitlines()) == 2


def test_identities_are_chosen_whole_those_of_queries_first():
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(np.arange(40), 5))
    queried = np.arange(0, 40, 4)
    chosen = projector.choose_images(ids, queried, 33)
    assert (np.diff(chosen) > 0).all()
    assert len(chosen) == 33
    counts = np.unique_counts(ids[chosen])
    assert sorted(counts.counts.tolist()) == [3, 5, 5, 5, 5, 5, 5]
    assert set(counts.values) <= set(queried)
    np.testing.assert_array_equal(projector.choose_images(ids, queried, 33), chosen)
    assert set(ids[projector.choose_images(ids, queried, 60)]) > set(queried)
    np.testing.assert_array_equal(projector.choose_images(ids, queried, 1000), np.arange(200))


def test_the_largest_number_of_images_fits_into_what_tensorboard_shows():
    blank = np.zeros((projector.THUMBNAIL_PIXELS, projector.THUMBNAIL_PIXELS, 3), np.uint8)
    assert projector.make_sprite([blank] * projector.MOST_IMAGES).shape[0] <= 8192
