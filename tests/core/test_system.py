"""Systems without POSIX: everything imports, files are locked, and builds make the same bytes. Windows is emulated."""

import ast
import json
import sys
from pathlib import Path

import fake_windows
import pytest
from commands import ENVIRONMENT, hashes, recipe, run
from forked_commands import Forked
from tiny_checkpoints import make_checkpoint

import figureground

PACKAGE = Path(figureground.__file__).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="open files are looked up in /proc")

IMPORT_ALL = """
import importlib, pkgutil
import figureground
for module in pkgutil.walk_packages(figureground.__path__, "figureground."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""
LOCK = """
from pathlib import Path
from figureground.core.locks import is_held, lock, unlink_while_held
from figureground.core.system import OPEN_NO_LINK, lock_file

def opened():
    return os.open("file", os.O_RDWR | os.O_CREAT)

one, two, three = opened(), opened(), opened()
print(lock_file(one, wait=False), lock_file(two, wait=False), lock_file(two, wait=False, shared=True))
os.close(one)
print(lock_file(two, wait=True, shared=True), lock_file(three, wait=True, shared=True), lock_file(opened(), wait=False))
path = Path("lock")
with lock(path) as held, lock(path) as again:
    print(held, again, is_held(path), unlink_while_held(path, path))
print(is_held(path), unlink_while_held(path, path), path.exists(), OPEN_NO_LINK)
path.symlink_to("elsewhere")
try:
    with lock(path):
        pass
except ValueError:
    print(Path("elsewhere").exists())
"""
COMMANDS = """
import json
from figureground.cli.main import main
for arguments in json.loads(sys.argv[1]):
    if code := main(arguments):
        sys.exit(code)
"""


def on_windows(script: str, *arguments: str, cwd: Path | None = None) -> str:
    """Output of a script where POSIX is missing."""
    process = Forked(arguments, fake_windows.SCRIPT + script, cwd=cwd, env=ENVIRONMENT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
def test_every_module_imports_without_posix():
    there = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    }
    found = set(on_windows(IMPORT_ALL).split())
    assert {name for name in there - found if not name.endswith("__main__")} == {"figureground"}


def test_files_are_locked_as_by_flock_and_links_are_not_followed(tmp_path):
    lines = on_windows(LOCK, cwd=tmp_path).splitlines()
    assert lines == ["True False False", "True True False", "True False True False", "False True False 0", "False"]


@pytest.mark.slow
def test_commands_do_the_same_and_leave_the_same_bytes(tmp_path):
    checkpoint = make_checkpoint("sd1", tmp_path / "checkpoint")
    settings = {"per_cell": "{train: 3, validation: 1}", "num_inference_steps": 2}
    build = ["build", *recipe(checkpoint, **settings), "--out"]
    assert run(*build, str(tmp_path / "posix"))[0] == 0
    output = on_windows(COMMANDS, json.dumps([
        [*build, "windows", "--log-json", "log"], ["status", "windows"], ["check", "windows"],
        ["evaluate", "windows", "--classifier", "pocket", "--save-scores", "--device", "cpu"],
        ["curate", "windows", "--out", "copy", "--keep", "foreground == 'bird'"], ["check", "copy"],
        ["show", "windows", "--full", "1"], ["show", "windows", "--full", "1"],
        ["extend", "windows", "--per-cell", "train=4", "--per-cell", "validation=1"], ["check", "windows"],
    ]), cwd=tmp_path)  # fmt: skip
    assert output.count("no findings.") == 3
    before = hashes(tmp_path / "posix")
    assert before.items() <= hashes(tmp_path / "windows").items()
    # Windows keeps a lock file that is removed while it is open; nothing else stays.
    left = {path.name for path in (tmp_path / "windows").rglob(".*") if path.is_file()}
    assert all(name.endswith(".lock") for name in left), left


def test_processes_are_spawned_never_forked():
    """A fork copies locks that other threads hold; macOS and Windows spawn, so everywhere is alike."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            where = f"{path}:{node.lineno}"
            assert name not in ("fork", "forkpty", "ProcessPoolExecutor", "set_start_method"), where
            if name == "get_context":
                assert [ast.literal_eval(each) for each in node.args] == ["spawn"], where
