"""Files of a transformers model: downloaded from the Hub, and checked before the model is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, read_object
from figureground.core.hashing import content_hash
from figureground.core.lfs import refuse_pointer

PICKLES = (".bin", ".pt", ".pth")


def download(model_kind: str, name: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """Download a model from the Hub, or find it in the cache; return its snapshot folder.

    Args:
        model_kind: Kind of model for errors, such as `classifier`.
        name: The model's id.
        revision: Branch, tag or commit.
        patterns: Files to download, such as `*.json`.

    Raises:
        FiguregroundError: The model doesn't exist or can't be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise FiguregroundError(
            f"{model_kind} {name!r} is not in this machine's cache and the Hub can't be reached. Download it where "
            f"there is a network (hf download {name}), or give a local directory."
        ) from error
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FiguregroundError(f"{model_kind} {name!r}: {(str(error).splitlines() or ['?'])[0]}") from error


def check_weights(folder: Path, model_kind: str, name: str, class_name: str) -> None:
    """Check that a directory with a config has weights that are neither pickles nor Git LFS pointers.

    Args:
        model_kind: Kind of model for errors, as in `classifier 'mine'`.
        name: Name of the model for errors.
        class_name: The transformers class that can convert a pickle.

    Raises:
        FiguregroundError: The check failed; the message names the file.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        state = f"only as a pickle ({pickles[0]}), which can run code when it is opened" if pickles else "missing"
        raise FiguregroundError(
            f"{model_kind} {name!r}: its weights (model.safetensors) are {state}. If you trust them, convert them: "
            f"{class_name}.from_pretrained(…, use_safetensors=False).save_pretrained('converted')."
        )
    for path in (folder / "config.json", *weights):
        refuse_pointer(path, f"{model_kind} {name!r}: its {path.name}")


def hash_files(paths: Iterable[Path]) -> str:
    """Return the hexadecimal SHA-256 of the names and contents of the files in `paths`, in path order."""
    hasher = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file()):
        hasher.update(f"{path.name}\0{content_hash(path)}\n".encode())
    return hasher.hexdigest()


def read_model_type(folder: Path) -> str:
    """Return the `model_type` in a directory's `config.json`; empty if it has none."""
    try:
        return str(read_object(folder / "config.json").get("model_type", ""))
    except (OSError, FileError):
        return ""
