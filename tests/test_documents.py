"""README.md and docs/ are executed: what a reader copies from them works.

Every block of code is run, in the order of the documents and in one folder that looks like a user's, against one tiny
run. A command that cannot be run here is listed in `NOT_RUN` with the reason; its options, files and targets are then
checked.
"""

import argparse
import copy
import functools
import importlib
import importlib.util
import inspect
import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import flags
from documents import DOCUMENTS, REPOSITORY, Block, blocks, calls, hidden_commands, inline_commands
from tiny_run import write_pictures

import mfg_jax
from mfg_jax.commands import embed
from tfds_builders.synthetic_vehicles import write_release

# By the beginning of the command, so that options may differ.
NOT_RUN = {
    "sets up an environment and then works for minutes; the Makefile's targets are what CI runs": (
        "make ",
        ".ci/run",
    ),
    "installs packages": ("pip install", "python -m pip install"),
    "waits for a browser; tests/test_projector.py and tests/test_metric_writer.py read what it shows": (
        "tensorboard --logdir=",
    ),
    "waits for a browser; tests/test_notebook.py runs the notebook": ("jupyter lab",),
    "needs a licensed dataset, or pictures of one's own; tests/test_main.py runs each configuration on drawn ones": (
        "python -m mfg_jax.main --config=configs/vric.py",
        "python -m mfg_jax.main --config=configs/veri776.py",
        "python -m mfg_jax.main --config=configs/vehicleid.py",
        "python -m mfg_jax.main --config=configs/custom.py",
    ),
    "trains for minutes; the shared run below is of the same command": (
        "python -m mfg_jax.main --config=configs/synthetic.py",
    ),
    "needs SLURM; tests/test_launch.py runs the script with stand-ins": ("sbatch", "scancel"),
    "needs a file of another project": ("python -m pytest tests/test_launch.py",),
    "needs packages that only the tests of parity install; tests/parity/test_onnx.py runs it": (
        "python -m mfg_jax export --workdir=runs/synthetic --out=synthetic.onnx",
    ),
    "measures for minutes": ("python -m benchmarks.",),
}

# The command of README.md that the shared run is trained by, and what makes it tiny.
TRAINED_BY = "python -m mfg_jax.main --config=configs/vric.py --config.data.manual_dir=DIR"
TINY = (
    "--config.model.depth=10",
    "--config.model.width=8",
    "--config.model.stem_stride=2",
    "--config.model.head_width=8",
    "--config.model.granularities=(1,2)",
    "--config.data.height=32",
    "--config.data.width=32",
    "--config.data.data_dir=data",
    "--config.train.batch_size=16",
    "--config.train.max_steps=2",
)

# ml_collections loads files in a way that Python has deprecated.
_CONFIGURATIONS_ARE_LOADED = pytest.mark.filterwarnings("ignore:the load_module")


def _all_blocks() -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document)]


def _reason(command: str) -> str | None:
    """Why a command is not run; None where it is."""
    for reason, beginnings in NOT_RUN.items():
        if command.startswith(beginnings):
            return reason
    return None


@pytest.fixture
def understand(tmp_path) -> Callable[[Block], list[list[str]]]:
    """`calls`, in a new folder each time."""
    numbers = itertools.count()

    def understand(block: Block) -> list[list[str]]:
        folder = tmp_path / f"block_{next(numbers)}"
        folder.mkdir()
        return calls(block, folder)

    return understand


def test_every_block_of_code_says_what_it_is():
    known = {"", "sh", "console", "python", "bibtex", "csv"}
    found = _all_blocks()
    assert [f"{block}: {block.language}" for block in found if block.language not in known] == []
    # A command among output would be read by nobody's test.
    assert [str(block) for block in found if not block.language and hidden_commands(block)] == []
    # There is something to run.
    assert {block.document for block in found if block.language == "sh"} >= {
        "README.md",
        "docs/own_pictures.md",
    }


@_CONFIGURATIONS_ARE_LOADED
def test_commands_that_are_not_run_are_understood(understand, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    unused = {beginning for beginnings in NOT_RUN.values() for beginning in beginnings}
    for block in _all_blocks():
        if block.language in ("sh", "console"):
            for call in understand(block):
                command = " ".join(call)
                if _reason(command) is not None:
                    unused -= {beginning for beginning in unused if command.startswith(beginning)}
                    _check(call, block)
    assert not unused, "listed in NOT_RUN, but in no document"


@_CONFIGURATIONS_ARE_LOADED
def test_commands_in_the_running_text_are_understood(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found = [(document, command) for document in DOCUMENTS for command in inline_commands(document)]
    assert len(found) > 5
    for document, command in found:
        _check(shlex.split(command), Block(document, 0, "sh", command))


def _check(call: list[str], block: Block) -> None:
    """Checks that a command's program, options and files exist."""
    where = f"{block}: {' '.join(call)}"
    match call:
        case ["make", *targets]:
            rules = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
            assert set(targets) <= set(rules), where
        case ["pip", "install", *what] | ["python", "-m", "pip", "install", *what]:
            extras = re.findall(
                r"^(\w+) = \[\"jax", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE
            )
            for word in what:
                if word.startswith(".["):
                    assert word[2:-1] in extras, where
                if word.startswith("requirements"):
                    assert (REPOSITORY / word).is_file(), where
        case ["jupyter", "lab", notebook]:
            assert (REPOSITORY / notebook).is_file(), where
        case ["tensorboard", logdir]:
            assert pathlib.PurePath(logdir).name == "tensorboard", where
        case ["sbatch", *options]:
            script = next(word for word in options if not word.startswith("--"))
            assert (REPOSITORY / script).is_file(), where
            # SMALL stands for options, as the text says.
            given = [
                "--config=configs/vric.py" if word == "SMALL" else word
                for word in options[options.index(script) + 1 :]
            ]
            _parse_options(given, where)
        case ["scancel", *_] | [".ci/run"]:
            pass
        case ["python", "-m", "pytest", path, *_]:
            assert (REPOSITORY / path).is_file(), where
        case ["python", "-m", "mfg_jax.main", *options]:
            _parse_options(options, where)
        case ["python", "-m", module, *options]:
            _parse_arguments(module, options, where)
        case _:
            pytest.fail(f"{where}: is of no known kind")


def _parse_options(options: list[str], where: str) -> None:
    """Parses the options of `mfg_jax.main`, and of the configuration that they name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main", *options])  # where the fields of a configuration are looked for
        importlib.import_module("mfg_jax.main")  # where the flags are defined
        # A copy: flags are parsed once in a process.
        parsed = copy.deepcopy(flags.FLAGS)
        parsed["config"].flag_values = parsed
        try:
            left = parsed(sys.argv)
        except flags.Error as error:
            pytest.fail(f"{where}: {error}")
        assert left == ["main"], where
        assert parsed.config is not None or not options, where


class _Parsed(Exception):
    """The options were accepted."""


def _start(module: str, arguments: list[str]) -> int:
    """Runs `python -m module arguments` in this process; returns the exit status."""
    program = importlib.import_module("mfg_jax.__main__" if module == "mfg_jax" else module).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        return program(arguments) if inspect.signature(program).parameters else program()


def _parse_arguments(module: str, arguments: list[str], where: str) -> None:
    """Calls a program up to where its options are parsed."""
    specification = importlib.util.find_spec("mfg_jax.__main__" if module == "mfg_jax" else module)
    assert specification is not None, where
    assert specification.origin is not None, where
    if re.search("^import torch", pathlib.Path(specification.origin).read_text(), re.MULTILINE):
        return  # optional, and slow to import
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: Any) -> None:
        try:
            parse(self, *given)
        except SystemExit as error:
            pytest.fail(f"{where}: not accepted ({error})")
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        with pytest.raises(_Parsed):
            _start(module, arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[pathlib.Path]:
    """A folder like a user's: releases of datasets, pictures, and runs, all of them one tiny run by another name."""
    folder = tmp_path_factory.mktemp("reader")
    for name, scale in (("vric", "0.005"), ("veri776", "0.003")):
        assert write_release.main([f"--format={name}", f"--out={folder}/DIR/{name}", f"--scale={scale}"]) == 0
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "requirements-onnx.txt").symlink_to(REPOSITORY / "requirements-onnx.txt")

    write_pictures(folder / "pictures", vehicles=6, each=5)
    rows = [
        f"car {vehicle}/{number}.jpg,{vehicle},{number},{split}"
        for vehicle in range(6)
        for number, split in enumerate(("query", *4 * ["gallery"]) if vehicle < 3 else 5 * ["train"])
    ]
    (folder / "pictures" / "manifest.csv").write_text("\n".join(["image,id,camera,split", *rows]))
    for name in ("query.jpg", "a.jpg", "b.jpg", "one.jpg", "another.jpg"):
        shutil.copy(folder / "pictures" / "car 0" / "0.jpg", folder / name)

    command = TRAINED_BY.split()[1:]
    done = subprocess.run(
        [sys.executable, *command, *TINY],
        cwd=folder,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("synthetic", "veri776", "vehicleid"):
        shutil.copytree(folder / "runs" / "vric", folder / "runs" / name)
    for name in ("A.json", "B.json"):
        shutil.copy(folder / "runs" / "vric" / "results" / "vric_step_00000002.json", folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder / "prepared"))
        patch.setattr("mfg_jax.export._SPEED_REPEATS", 1)
        patch.setattr("mfg_jax.export._SPEED_BATCHES", (1,))
        # Each network is compiled once.
        load = functools.cache(mfg_jax.load)
        for module in (mfg_jax, embed):
            patch.setattr(module, "load", lambda source, step=None: load(str(source), step))
        yield folder


def _given(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What the programs of a document take for given: embeddings and pictures of the reader's own."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    paths = sorted((folder / "pictures").rglob("*.jpg"))
    return {
        "README.md": {
            "paths": paths,
            "query_ids": np.array([0, 1]),
            "query_cameras": np.array([0, 0]),
            "gallery_ids": np.arange(len(paths)) // 5,
            "gallery_cameras": np.arange(len(paths)) % 5,
        },
        "docs/evaluation.md": {
            "query_features": embeddings[:20],
            "query_ids": np.arange(20) % 5,
            "query_cameras": np.zeros(20, np.int64),
            "gallery_features": embeddings[20:],
            "gallery_ids": np.arange(20) % 5,
            "gallery_cameras": np.ones(20, np.int64),
        },
        "docs/export.md": {"images": rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)},
    }


@pytest.mark.slow
def test_blocks_of_code_run(folder, understand, subtests):
    """In one test, so that the run is trained once however many processes the tests run in."""
    given = _given(folder)
    done: set[str] = set()
    for document in DOCUMENTS:
        names = dict(given.get(document, {}))
        for block in blocks(document):
            with subtests.test(block=str(block)):
                if block.language == "python":
                    exec(compile(block.text, str(block), "exec"), names)
                if block.language not in ("sh", "console"):
                    continue
                for call in understand(block):
                    command = shlex.join(call)
                    # What another document has had done is there.
                    if command in done or _reason(" ".join(call)) is not None:
                        continue
                    done.add(command)
                    assert call[:2] == ["python", "-m"], f"{command}: of no known kind; list it in NOT_RUN"
                    assert not _start(call[2], call[3:]), command
    assert len(done) > 10


def test_the_shared_run_is_trained_by_a_command_of_the_readme(understand):
    assert TRAINED_BY in [
        " ".join(call)
        for block in blocks("README.md")
        if block.language == "sh"
        for call in understand(block)
    ]
