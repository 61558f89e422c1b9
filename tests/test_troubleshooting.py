"""docs/troubleshooting.md quotes messages as the code writes them, so that a reader finds them by their words."""

import ast
import functools
import pathlib
import re
from collections.abc import Iterator

import pytest
from documents import REPOSITORY

# Stands in a source's text for what is filled in; no document holds it.
_FILLED_IN = "\0"
_GAP = "…"


def _quoted() -> list[str]:
    """The first column of all tables, but those of other programs' messages and of exit statuses."""
    found, ours = [], True
    for line in (REPOSITORY / "docs" / "troubleshooting.md").read_text().splitlines():
        if line.startswith("## ") or line == "Of other programs:":
            ours = line.startswith("## ")
        match = re.match(r"\| `([^`]+)` \|", line)
        if match and ours:
            found.append(match[1])
    return found


def _text(node: ast.expr) -> str | None:
    """A string expression with its filled-in parts marked; None where it is none."""
    match node:
        case ast.Constant(value=str()):
            return re.sub(r"%[sdg]", _FILLED_IN, node.value)
        case ast.JoinedStr():
            return "".join(_text(part) or _FILLED_IN for part in node.values)
        case ast.BinOp(op=ast.Add()):
            left, right = _text(node.left), _text(node.right)
            return None if left is right is None else (left or _FILLED_IN) + (right or _FILLED_IN)
    return None


def _texts(path: pathlib.Path) -> Iterator[str]:
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.expr) and (text := _text(node)):
                yield text
    else:
        yield re.sub(r"\$\(\w+\)|\$\{[^}]*\}|\$\w+", _FILLED_IN, path.read_text())


@functools.cache
def _all_texts() -> tuple[str, ...]:
    files = [REPOSITORY / "Makefile", *sorted((REPOSITORY / "launch").glob("*.sh"))]
    for package in ("mfg_jax", "tfds_builders", "configs"):
        files += sorted((REPOSITORY / package).rglob("*.py"))
    return tuple(text for file in files for text in _texts(file))


def _is_written(message: str) -> bool:
    """Whether some text has the message's fixed parts, in their order, with something filled in between them."""
    parts = [re.escape(part.strip()) for part in message.split(_GAP) if part.strip(" .,:;()")]
    pattern = re.compile(rf"[^\n]*?{_FILLED_IN}[^\n]*?".join(parts))
    return any(pattern.search(text) for text in _all_texts())


@pytest.mark.parametrize("message", _quoted())
def test_a_quoted_message_is_one_that_the_code_writes(message):
    assert _is_written(message)


@pytest.mark.parametrize("message", _quoted())
def test_a_quoted_message_has_words_to_look_for(message):
    assert max(len(part.strip(" .,:;()")) for part in message.split(_GAP)) >= 10


def test_a_message_that_nothing_writes_is_noticed():
    assert len(_quoted()) > 80
    for message in ("There is no configuration fail …", "config.… is not set. Start from a …. Nothing else."):
        assert not _is_written(message)
