"""The command's beginning, run as people do."""

import subprocess
import sys

import pytest

from figureground import __version__

AT_IMPORT = """
import os, runpy, signal, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "figureground.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.{handler})
sys.meta_path.insert(0, Finder)
sys.argv[1:] = ["--version"]
runpy.run_module("figureground", run_name="__main__")
"""
"""Ctrl-C comes just as the command's own imports begin."""


@pytest.mark.parametrize(
    ("handler", "code", "output", "err"),
    [("default_int_handler", 130, "", "figureground: stopped.\n"), ("SIG_IGN", 0, f"{__version__}\n", "")],
    ids=["heeded", "ignored, as by nohup"],
)
def test_ctrl_c_while_the_command_is_imported_is_one_line(handler, code, output, err):
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT.format(handler=handler)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, output, err)


def test_the_package_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "figureground", "--version"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.decode()) == (0, f"{__version__}\n")
