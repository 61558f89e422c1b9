"""What a work directory says of itself: each file named, and commands that a shell takes."""

import pathlib
import shlex

from mfg_jax import run_description


def test_every_entry_is_told_in_lines_that_a_terminal_shows():
    text = run_description.readme(pathlib.Path("runs/x"), "python -m mfg_jax.main --config=configs/vric.py")
    for name, what in run_description.ENTRIES.items():
        assert f"\n  {name} " in text
        assert what in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120


def test_commands_name_the_directory_as_a_shell_needs_it(tmp_path):
    workdir = pathlib.Path("runs/it's mine")
    text = run_description.readme(
        workdir, shlex.join(["python", "-m", "mfg_jax.main", f"--workdir={workdir}"])
    )
    commands = [
        shlex.split(line) for line in text.splitlines() if line.startswith(("    python", "    tens"))
    ]
    assert [command[-1] for command in commands] == [
        f"--workdir={workdir}",
        "--mode=evaluate",
        f"--workdir={workdir}",
        f"--logdir={workdir}/tensorboard",
    ]
    loading = next(line for line in text.splitlines() if "mfg_jax.load(" in line)
    assert str(workdir) == eval(loading.partition("mfg_jax.load")[2])


def test_it_is_written_beside_the_description(tmp_path):
    run_description.write(tmp_path, {"seed": 0})
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "README.txt"}
    assert run_description.command() in (tmp_path / "README.txt").read_text()
