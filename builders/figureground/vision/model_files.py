"""The files of a transformers model: brought from the Hub, and checked before they are opened as one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from figureground.core.errors import FiguregroundError
from figureground.sources.images import content_hash

PICKLES = (".bin", ".pt", ".pth")
_LFS = b"version https://git-lfs"


def download(what: str, name: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """Brings a model from the Hub, or finds it in the cache; returns its snapshot.

    Args:
        what: What errors call it: `classifier`.
        name: Its id.
        revision: Branch, tag or commit.
        patterns: The files that are wanted, such as `*.json`.

    Raises:
        FiguregroundError: It is out of reach, or there is no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise FiguregroundError(
            f"{what} {name!r} is not in this machine's cache and the Hub can't be reached. Download it where there "
            f"is a network (hf download {name}), or give a local directory."
        ) from error
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FiguregroundError(f"{what} {name!r}: {(str(error).splitlines() or ['?'])[0]}") from error


def check_weights(folder: Path, what: str, name: str, kind: str) -> None:
    """Makes sure that a directory, which has a config, has weights that are no pickle, and no pointer in their place.

    Args:
        what: What errors call the model, as in `classifier 'mine'`.
        name: The same.
        kind: The class of transformers that a pickle can be converted with.

    Raises:
        FiguregroundError: It isn't so, naming the file.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        there = f"only as a pickle ({pickles[0]}), which can run code when it is opened" if pickles else "missing"
        raise FiguregroundError(
            f"{what} {name!r}: its weights (model.safetensors) are {there}. Convert them where you trust them: "
            f"{kind}.from_pretrained(…, use_safetensors=False).save_pretrained('converted')."
        )
    for path in (folder / "config.json", *weights):
        if is_pointer(path):
            raise FiguregroundError(
                f"{what} {name!r}: its {path.name} is a Git LFS pointer, not the file: run `git lfs pull`."
            )


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS puts in the place of a large one."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal, over the names and bytes of the files among `paths`, in the order of their paths."""
    total = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file()):
        total.update(f"{path.name}\0{content_hash(path)}\n".encode())
    return total.hexdigest()
