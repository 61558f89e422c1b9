"""README.md and docs/ taken apart: their blocks of code, and the programs that shell blocks would start."""

import dataclasses
import os
import pathlib
import re
import subprocess

REPOSITORY = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
    name.relative_to(REPOSITORY).as_posix()
    for name in (
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
    )
]

# What a block may start; anything else is a mistake, or has to be added here.
_PROGRAMS = (
    ".venv/bin/python", "python", "pip", "make", "sbatch", "scancel", ".ci/run", ".venv/bin/jupyter",
    ".venv/bin/tensorboard",
)  # fmt: skip
_COMMAND = re.compile(r"(\$ |\.venv/bin/|python\d? -m |make |pip |jupyter |sbatch |\w+=\S+ python )")

# Writes down its own name and arguments.
_STAND_IN = """#!/bin/bash
printf '%s\\x1f' "$NAME" "$@" >> "$CALLS"
printf '\\x1e' >> "$CALLS"
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Attributes:
        document: its path in the repository.
        line: of the opening fence, from 1.
        language: as the fence names it; "sh" too where it names none and the block begins with a command.
        text: what is in it.
    """

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str) -> list[Block]:
    """All fenced blocks of a document, in order."""
    found: list[Block] = []
    start, language, lines = 0, "", []
    for number, line in enumerate((REPOSITORY / document).read_text().splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif start == 0:
            start, language, lines = number, line[3:].strip(), []
        else:
            if not language and lines and _COMMAND.match(lines[0]):
                language = "console" if lines[0].startswith("$ ") else "sh"
            found.append(Block(document, start, language, "\n".join(lines) + "\n"))
            start = 0
    assert start == 0, f"{document}:{start}: a block that does not end"
    return found


def hidden_commands(block: Block) -> list[str]:
    """Lines of a block of output that look like commands."""
    return [line for line in block.text.splitlines() if _COMMAND.match(line)]


def calls(block: Block, folder: pathlib.Path) -> list[list[str]]:
    """What a shell block would start, as bash understands it: programs with their arguments.

    Bash runs the block with stand-ins that do nothing, so loops, comments and line ends are its own affair.

    Args:
        block: in the language "sh", or "console", of which the lines behind `$` count.
        folder: an empty folder to do it in.

    Returns:
        The calls, in order; a Python is called "python" wherever it lies.
    """
    text = block.text
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    record = folder / "calls"
    record.touch()
    for program in _PROGRAMS:
        path = folder / (program if "/" in program else f"bin/{program}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_STAND_IN.replace("$NAME", program.removeprefix(".venv/bin/")))
        path.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", "-eu", "-c", text],
        cwd=folder,
        env={"PATH": str(folder / "bin"), "CALLS": str(record), "HOME": os.fspath(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}: {done.stderr}"
    return [call.split("\x1f")[:-1] for call in record.read_text().split("\x1e")[:-1]]


def inline_commands(document: str) -> list[str]:
    """`python -m MODULE OPTIONS` in the running text, between backticks."""
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [
        " ".join(command.split())
        for command in re.findall(r"`(?:\.venv/bin/)?(python -m [^`\s]+ [^`]+)`", text)
        if "..." not in command
    ]
