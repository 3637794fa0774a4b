"""Where nobody watches, progress is a line now and then, and short work says nothing."""

import os
import subprocess
import sys
import termios
import time

import figureground.core.progress
from figureground.core.progress import Progress


def test_without_a_terminal_long_work_writes_lines(capsys, monkeypatch):
    monkeypatch.setattr(figureground.core.progress, "SECONDS_BETWEEN_LINES", 0.05)
    with Progress(6, desc="out/d3s", unit="image") as bar:
        for _ in range(3):
            time.sleep(0.06)
            bar.update(2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("out/d3s:  67%|")
    assert "4/6" in lines[1]


def test_short_work_and_hidden_work_write_nothing(capsys):
    with Progress(2) as bar:
        bar.update()
    with Progress(2, show=False) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar():
    code = (
        "from figureground.core.progress import Progress\nfor _ in [0]:\n  with Progress(2, desc='x') as b: b.update()"
    )
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    done = subprocess.run([sys.executable, "-c", code], stderr=writer, timeout=60)
    os.close(writer)
    assert done.returncode == 0
    assert b"\rx: " in os.read(reader, 4096)
    os.close(reader)
