"""Files that commands write are marked, and never overwrite other people's files or lie among the input."""

import pytest
from PIL import Image

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.core.owned import encode_png, is_ours, refuse_foreign_files

COMMANDS = {
    "components": ["components", "--classifier", "pocket", "--class", "bird", "--images", "IN", "--out", "OUT"],
    "finetune": ["finetune", "--references", "IN", "--noun", "bird", "--class", "bird", "--out", "OUT"],
    "train": ["train", "erm", "--data", "IN", "--out", "OUT"],
    "compare": ["compare", "IN", "--methods", "erm", "--out", "OUT"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("where", [".", "results", "link"])
def test_results_among_their_own_input_are_refused(name, where, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.effect_noise((8, 8), 50 + i).save(folder / f"{i}.png")
    out = tmp_path / "link" / "new" if where == "link" else folder / where
    (tmp_path / "link").symlink_to(folder)
    assert main([str({"IN": folder, "OUT": out}.get(word, word)) for word in COMMANDS[name]]) == 2
    assert f"--out {out}" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 3


def test_only_marked_and_empty_files_may_be_replaced(tmp_path):
    ours, empty, theirs, link = (tmp_path / name for name in ("ours.png", "empty.png", "theirs.png", "link.png"))
    ours.write_bytes(encode_png(Image.new("RGB", (4, 4))))
    empty.touch()
    Image.new("RGB", (4, 4)).save(theirs)
    link.symlink_to(ours)
    refuse_foreign_files(ours, empty, tmp_path / "new.png")
    assert [is_ours(path) for path in (ours, empty, theirs, link, tmp_path)] == [True, False, False, False, False]
    for path in (theirs, link, tmp_path):
        with pytest.raises(FiguregroundError, match=path.name):
            refuse_foreign_files(path)
