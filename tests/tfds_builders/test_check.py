"""The check of a release before it is built."""

import pytest
from small_releases import VRIC, WRITERS, encode_jpeg, write, write_veri776, write_vric

from tfds_builders import check
from tfds_builders.errors import DatasetError


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("decode", [False, True])
def test_good_releases_are_usable(name, decode, tmp_path):
    report = check.check(name, manual_dir=WRITERS[name](tmp_path), decode=decode)
    assert report.usable
    assert all(not split.missing and not split.unreadable for split in report.splits)


def test_the_table_shows_found_and_official_counts(tmp_path, capsys):
    assert check.main(["--dataset=vric", f"--manual_dir={write_vric(tmp_path)}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    train = next(line.split() for line in lines if line.startswith("train"))
    assert train == ["train", "3", "54,808", "2", "2,811", "3", "-", "0", "not", "decoded"]
    assert lines[-1] == "usable: yes"


def test_missing_and_empty_pictures_are_found_without_decoding(tmp_path, capsys):
    root = write_vric(tmp_path)
    (root / "train_images" / VRIC["train"][0][0]).unlink()
    write(root / "probe_images" / VRIC["query"][0][0], b"")
    assert check.main(["--dataset=vric", f"--manual_dir={root}"]) == 1
    output = capsys.readouterr().out
    assert f"problem: the split train lacks 1 picture: {VRIC['train'][0][0]}." in output
    assert f"{VRIC['query'][0][0]} is an empty file" in output
    assert output.endswith("usable: no\n")


def test_pictures_that_do_not_decode_are_found_by_decoding(tmp_path):
    root = write_vric(tmp_path)
    write(root / "probe_images" / VRIC["query"][0][0], encode_jpeg()[:-30])
    assert check.check("vric", manual_dir=root).usable
    report = check.check("vric", manual_dir=root, decode=True)
    assert not report.usable
    assert "is cut off" in report.splits[1].unreadable[VRIC["query"][0][0]]


def test_an_index_file_that_disagrees_makes_veri_unusable(tmp_path, capsys):
    root = write_veri776(tmp_path)
    assert check.main(["--dataset=veri776", f"--manual_dir={root}"]) == 0
    output = capsys.readouterr().out
    assert "agree with the camera rule for all 3 queries (6 good and 4 junk pairs)" in output
    write(root / "jk_index.txt", "1 2 \r\n2 3 \r\n6 \r\n")
    assert check.main(["--dataset=veri776", f"--manual_dir={root}"]) == 1
    assert "query 0002_c003_00000002_0.jpg: jk_index.txt lists" in capsys.readouterr().out


def test_a_malformed_list_is_an_error_with_status_1(tmp_path, capsys):
    root = write_vric(tmp_path)
    write(root / "vric_train.txt", "a.jpg 1\n")
    assert check.main(["--dataset=vric", f"--manual_dir={root}"]) == 1
    assert "vric_train.txt, line 1" in capsys.readouterr().err


def test_a_generated_dataset_has_no_release_to_check():
    with pytest.raises(DatasetError, match="is generated"):
        check.check("synthetic_vehicles")
