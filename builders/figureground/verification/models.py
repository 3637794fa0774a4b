"""Finds and describes the transformers models that scorers use."""

from __future__ import annotations

from pathlib import Path

from figureground.core.errors import FiguregroundError
from figureground.models.opening import refuse_code

FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""Files of a model: settings, vocabularies, chat templates, weights."""


def refuse_absent(flag: str, name: str) -> None:
    """Refuse a model whose directory doesn't exist, has no config, or names code to run; without torch.

    Args:
        flag: The scorer in errors, such as `--scorer clip:mine`.
        name: A directory or a Hub id.

    Raises:
        FiguregroundError: The check failed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FiguregroundError(f"{flag}: {name!r} is not a transformers directory: it has no config.json.")
        refuse_code(path, flag)
    elif path.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise FiguregroundError(f"{flag}: no such directory: {name!r}. Give a transformers directory or a Hub id.")


def find_model(flag: str, name: str, kind: str) -> tuple[Path, str]:
    """Return a model's directory on this machine and the hash of its files, downloading it if needed.

    Args:
        flag: The scorer in errors.
        name: A directory or a Hub id.
        kind: The transformers class that can convert pickled weights, for errors.

    Raises:
        FiguregroundError: The model is unreachable, or its weights are missing, pickled or Git LFS pointers.
    """
    from figureground.vision.model_files import check_weights, download, hash_files

    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = download("scorer", name, None, FILES)
    check_weights(folder, "scorer", name, kind)
    return folder, hash_files(path for pattern in FILES for path in folder.glob(pattern))
