"""The first lines of a build: how it is rendered, and how long that will take."""

import os
import subprocess
import sys

from commands import recipe, run

from figureground.running.announcement import Announcer, time_first

NUMERICS = {"device": "cpu", "dtype": "float32", "batch_size": 16, "threads": 2}


def on_terminal(code: str) -> str:
    """Output of a script on a terminal."""
    reader, writer = os.openpty()
    script = f"from figureground.running.announcement import Announcer\nnumerics = {NUMERICS}\n{code}"
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    result = subprocess.run([sys.executable, "-c", script], stderr=writer, env=environment, timeout=60)
    os.close(writer)
    output = os.read(reader, 4096).decode()
    os.close(reader)
    assert result.returncode == 0, output
    return output


def test_a_terminal_shows_the_method_at_once_and_the_duration_after_the_first_batch():
    lines = on_terminal("""
announcer = Announcer(show=True)
announcer.report_setup(numerics, 64)
announcer.report_first_batch(seconds=4.0, batch=16, remaining=1600, workers=2)
""").splitlines()
    assert [word for word in ("cpu", "2 threads", "float32", "batches of 16 images") if word not in lines[0]] == []
    assert "3.3 minutes for 1,600 images by 2 workers" in lines[1]
    assert len(lines) == 2


def test_a_log_has_both_in_one_line_and_only_for_long_builds(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for remaining, lines in ((16, 0), (1600, 1)):
        announcer = Announcer(show=True)
        announcer.report_setup(NUMERICS, 64)
        announcer.report_first_batch(seconds=4.0, batch=16, remaining=remaining, workers=1)
        errors = capsys.readouterr().err
        assert errors.count("\n") == lines
        assert ("float32" in errors and "6.7 minutes" in errors) == bool(lines)


def test_a_cpu_is_warned_of_large_images_and_no_other_process_says_anything(capsys):
    Announcer(show=True).report_setup(NUMERICS, 512)
    assert "512 px on a CPU" in capsys.readouterr().err
    Announcer(show=True).report_setup({**NUMERICS, "device": "cuda"}, 512)
    assert "512 px" not in capsys.readouterr().err
    quiet = Announcer(show=False)
    quiet.report_setup(NUMERICS, 512)
    quiet.report_first_batch(1000.0, 1, 1000, 1)
    assert capsys.readouterr().err == ""


def test_the_first_batch_ends_with_its_first_result():
    clock, durations = iter([10.0, 13.0]), []
    assert list(time_first(iter("abc"), lambda: next(clock), durations.append)) == ["a", "b", "c"]
    assert durations == [3.0]


def test_a_build_warns_of_large_images_on_a_cpu_before_it_draws(checkpoint, tmp_path):
    few = {"per_cell": "{train: 1}", "limit": 1, "num_inference_steps": 2, "size": 512, "batch_size": 1}
    code, _, errors = run("build", *recipe(checkpoint, **few), "--out", str(tmp_path / "large"))
    assert code == 0, errors
    assert "512 px on a CPU" in errors
