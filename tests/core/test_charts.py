import subprocess
import sys

from PIL import Image

from figureground.core.charts import draw_charts


def draw(path):
    def plot(figure, axes):
        assert axes.shape == (2, 3)
        axes[0, 0].plot([0, 1], [0, 1], color="red")
        axes[1, 2].remove()

    draw_charts(path, (6, 4), plot, rows=2, columns=3)


def test_charts_are_drawn_into_one_image_that_replaces_the_last(tmp_path):
    path = tmp_path / "charts.png"
    path.write_bytes(b"an older one")
    draw(path)
    image = Image.open(path).convert("RGB")
    assert image.size == (660, 440)
    assert (255, 0, 0) in {colour for _, colour in image.getcolors(2**24)}
    assert [each.name for each in tmp_path.iterdir()] == ["charts.png"]


def test_pyplot_with_the_figures_and_the_backend_of_whoever_calls_is_left_alone(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from figureground.core.charts import draw_charts\n"
        "draw_charts(pathlib.Path('charts.png'), (3, 3), lambda figure, axes: None)\n"
        "assert pathlib.Path('charts.png').is_file() and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_without_matplotlib_nothing_is_written(tmp_path):
    code = (
        "import pathlib, sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from figureground.core.charts import draw_charts\n"
        "draw_charts(pathlib.Path('charts.png'), (3, 3), None)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert not list(tmp_path.iterdir())
