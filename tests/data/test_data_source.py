"""Where data are: text becomes paths, options that aren't given are left out, and layouts see the path until found."""

from pathlib import Path

from tiny_layouts import make_table

from figureground.data.data_source import DataSource
from figureground.data.layouts import read_data


def test_text_becomes_paths_and_what_is_not_given_is_left_out():
    source = DataSource.of("birds", "table", root="images", a="place", split_column="fold")
    assert (source.path, source.root) == (Path("birds"), Path("images"))
    assert source.given() == {"layout": "table", "root": Path("images"), "a": "place", "split_column": "fold"}
    assert DataSource.of("birds", seed=3).given() == {}


def test_its_table_is_the_given_path_until_one_is_found(tmp_path):
    make_table(tmp_path / "birds")
    assert DataSource.of(tmp_path / "birds").at == tmp_path / "birds"
    assert DataSource.of(tmp_path / "birds").name == read_data(DataSource.of(tmp_path / "birds")).name == "birds"
    assert DataSource.of(tmp_path / "none" / "mine.csv").name == "mine"
