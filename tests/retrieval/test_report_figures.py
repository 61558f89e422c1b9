"""Ranked lists and pictures: what is shown is what was ranked, in the right colour."""

import cv2
import numpy as np
import pytest
from retrieval_oracle import rank_one_query, squared_distances

from mfg_jax.errors import UserError
from mfg_jax.retrieval import RetrievalSet, evaluate, evenly_by_average_precision, ranked_lists
from mfg_jax.retrieval.ranked_lists import load_ranked_lists, save_ranked_lists
from mfg_jax.retrieval.report_figures import RIGHT, WRONG, cmc_figure, curves_figure, ranked_lists_figure


def some_set(images, seed, identities=6):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, identities, images)
    features = 3 * np.eye(identities)[ids] + rng.standard_normal((images, identities))
    return RetrievalSet(features, ids, rng.integers(0, 3, images))


def test_lists_show_the_ranking_without_what_is_excluded():
    query, gallery = some_set(30, 0), some_set(60, 1)
    lists = ranked_lists(query, gallery, np.arange(30), length=12)
    squared = squared_distances(query.features, gallery.features)
    for row in range(30):
        ranks = rank_one_query(
            squared[row], query.ids[row], query.cameras[row], gallery.ids, gallery.cameras, True
        )
        assert (np.flatnonzero(lists.correct[row]) + 1).tolist() == [rank for rank in ranks if rank <= 12]
        shown = lists.gallery[row]
        assert not (
            (gallery.ids[shown] == query.ids[row]) & (gallery.cameras[shown] == query.cameras[row])
        ).any()
        np.testing.assert_allclose(lists.distance[row], np.sqrt(squared[row, shown]), rtol=1e-5)
    assert (lists.correct[:, 0] == (evaluate(query, gallery).first_hit == 1)).all()


def test_an_exhausted_gallery_leaves_gaps():
    query = RetrievalSet(np.zeros((1, 2)), np.array([1]), np.array([0]))
    gallery = RetrievalSet(np.ones((3, 2)), np.array([1, 1, 2]), np.array([0, 1, 0]))
    lists = ranked_lists(query, gallery, [0], length=5)
    assert lists.gallery.tolist() == [[1, 2, -1, -1, -1]]
    assert lists.correct.tolist() == [[True, False, False, False, False]]
    assert np.isinf(lists.distance[0, 2:]).all()


def test_lists_survive_their_file(tmp_path):
    lists = ranked_lists(some_set(9, 0), some_set(40, 1), np.arange(9), length=5)
    path = tmp_path / "lists.npz"
    save_ranked_lists(path, lists, {"query": "abc", "gallery": "def"})
    loaded, fingerprints = load_ranked_lists(path)
    assert fingerprints == {"query": "abc", "gallery": "def"}
    for name in ("query", "gallery", "distance", "correct"):
        written, read = getattr(lists, name), getattr(loaded, name)
        assert written.dtype == read.dtype
        np.testing.assert_array_equal(written, read)
    assert [item.name for item in tmp_path.iterdir()] == ["lists.npz"]


def test_lists_that_are_missing_or_cut_short_are_clear_errors(tmp_path):
    path = tmp_path / "lists.npz"
    with pytest.raises(UserError, match="evaluate again"):
        load_ranked_lists(path)
    save_ranked_lists(path, ranked_lists(some_set(9, 0), some_set(40, 1), [0, 1]), {"query": "abc"})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged"):
        load_ranked_lists(path)


def test_queries_chosen_evenly_from_best_to_worst():
    values = np.array([0.2, np.nan, 1.0, 0.5, 0.9, 0.1])
    assert evenly_by_average_precision(values, 3).tolist() == [2, 3, 5]
    assert evenly_by_average_precision(values, 99).tolist() == [2, 4, 3, 0, 5]


def colour_at_borders(picture, colour):
    """Pixels of exactly this colour, by row and column of the picture."""
    wanted = [int(colour[place : place + 2], 16) for place in (5, 3, 1)]
    return (picture == wanted).all(axis=2)


def test_right_is_green_and_wrong_is_red(tmp_path):
    grey = np.full((40, 40, 3), 128, np.uint8)
    correct = np.array([[True, False, True], [False, False, True]])
    path = tmp_path / "lists.png"
    ranked_lists_figure(path, [grey] * 2, [[grey] * 3] * 2, correct, np.ones((2, 3)), title="a title")
    picture = cv2.imread(str(path))
    assert picture.shape[1] == 1800
    for colour, where in ((RIGHT, correct), (WRONG, ~correct)):
        shown = colour_at_borders(picture, colour)
        # The picture's right three quarters hold the results; look at each one's share of it.
        left = 1800 * (1 + 0.28 + 0.05) / (3 + 1 + 0.28 + 0.1)
        edges = np.linspace(left, 1800, 4).astype(int)
        middle = picture.shape[0] * 0.55
        for row, column in np.ndindex(2, 3):
            half = slice(0, int(middle)) if row == 0 else slice(int(middle), None)
            count = shown[half, edges[column] : edges[column + 1]].sum()
            assert (count > 1000) == where[row, column], (colour, row, column, count)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_formats_and_reproducible_files(tmp_path, suffix):
    image = np.zeros((30, 50, 3), np.uint8)
    files = [tmp_path / f"{number}" / f"lists{suffix}" for number in range(2)]
    for file in files:
        ranked_lists_figure(
            file,
            [image],
            [[image, None]],
            [[True, False]],
            [[0.1, np.inf]],
            query_cameras=[1],
            result_cameras=[[2, 0]],
            average_precision=[0.5],
        )
        assert [item.name for item in file.parent.iterdir()] == [file.name]
    if suffix != ".svg":  # matplotlib draws random names for clip paths there
        assert files[0].read_bytes() == files[1].read_bytes()


def test_curves(tmp_path):
    steps = np.arange(1, 200)
    rates = np.where(steps < 100, 1e-3, 1e-4)
    curves_figure(
        tmp_path / "loss.png", steps, 3 / steps, rates, {"mAP": ([0, 199], [0.1, 0.6])}, title="Training"
    )
    curves_figure(tmp_path / "short.png", [1], [2.0])
    cmc_figure(tmp_path / "cmc.png", {"trained": np.linspace(0.5, 1, 50)}, title="CMC")
    for name in ("loss.png", "short.png", "cmc.png"):
        assert cv2.imread(str(tmp_path / name)).std() > 5


def test_bad_input_is_a_clear_error(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="as many results as marks"):
        ranked_lists_figure(tmp_path / "a.png", [image], [[image]], [[True, False]], [[1.0, 2.0]])
    with pytest.raises(UserError, match=r"written as \.png"):
        ranked_lists_figure(tmp_path / "a.bmp", [image], [[image]], [[True]], [[1.0]])
    with pytest.raises(UserError, match="at least one step"):
        curves_figure(tmp_path / "a.png", [], [])
    with pytest.raises(UserError, match="at least one curve"):
        cmc_figure(tmp_path / "a.png", {})
    assert not list(tmp_path.iterdir())
