"""The live line and the rows above it, as a terminal and as a log file show them."""

import io
import re

import pytest

from mfg_jax.progress import ProgressLine, duration


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines on the screen: a carriage return goes back, `ESC [ K` wipes the rest of the line."""
        lines = [""]
        column = 0
        for part in re.findall(r"\r|\n|\x1b\[K|[^\r\n\x1b]+", self.getvalue()):
            if part == "\r":
                column = 0
            elif part == "\n":
                lines.append("")
                column = 0
            elif part == "\x1b[K":
                lines[-1] = lines[-1][:column]
            else:
                lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
                column += len(part)
        return lines


def _train(stream: io.StringIO, *, active: bool = True, total: int = 6) -> None:
    """Six steps of three epochs; the state is saved after each step, and a row comes after each epoch."""
    with ProgressLine(
        first_step=0, total_steps=6, steps_per_epoch=2, batch_size=4, active=active, stream=stream
    ) as line:
        for step in range(1, total + 1):
            line.update(step, {"loss": 10.0 - step, "learning_rate": 0.1})
            if step % 2 == 0:
                line.row("epoch  loss", f"    {step // 2}  {10.0 - step:.2f}")
            line.restart()


def test_on_a_terminal_rows_follow_each_other_and_the_line_stays_the_last():
    terminal = _Terminal()
    _train(terminal)
    *rows, line, end = terminal.shown()
    assert rows == ["epoch  loss", "    1  8.00", "    2  6.00", "    3  4.00"]
    assert line.startswith("epoch 3/3  step 6/6  loss 4.0000  rate 1.00e-01")
    assert end == ""  # what comes next starts a line of its own


def test_what_ends_a_run_early_starts_a_line_of_its_own():
    terminal = _Terminal()
    _train(terminal, total=3)
    assert terminal.shown()[-2].startswith("epoch 2/3  step 3/6")
    assert terminal.shown()[-1] == ""


def test_in_a_log_every_row_has_its_header_and_nothing_is_overwritten():
    log = io.StringIO()
    _train(log)
    assert not set(log.getvalue()) & {"\r", "\x1b"}
    lines = log.getvalue().splitlines()
    assert len(lines) == 6 + 2 * 3
    for place, text in enumerate(lines):
        if text == "epoch  loss":
            assert lines[place - 1].startswith("epoch ")
            assert re.fullmatch(r" +\d  \d\.\d\d", lines[place + 1])
    assert lines.count("epoch  loss") == 3


@pytest.mark.parametrize("stream", [io.StringIO, _Terminal])
def test_a_process_that_is_not_to_write_writes_nothing(stream):
    output = stream()
    _train(output, active=False)
    assert output.getvalue() == ""


def test_durations_are_told_in_two_units():
    assert [duration(seconds) for seconds in (6.6, 760, 11_100)] == ["7 s", "12 min 40 s", "3 h 05 min"]
