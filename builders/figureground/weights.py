"""Where a checkpoint's files lie and what they are, told without opening them as a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from figureground.errors import FiguregroundError
from figureground.pocket import WEIGHTS

POCKET = "pocket"
WHOLE = 256 * 2**20
"""Files up to this many bytes are hashed whole, larger ones by samples: any training changes every tensor."""
SAMPLES, SAMPLE = 256, 2**16


def local_directory(checkpoint: str) -> Path | None:
    """Where a checkpoint lies on this machine, or None for a Hub id.

    Raises:
        FiguregroundError: It looks like a path and isn't there, or is one file.
    """
    if checkpoint == POCKET:
        if not (WEIGHTS / "model_index.json").is_file():
            raise FiguregroundError(
                "checkpoint: the pocket model's weights are missing from this install. Reinstall figureground, or "
                "train them: python -m figureground.pocket.train --out builders/figureground/pocket/weights"
            )
        return WEIGHTS
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise FiguregroundError(
            f"checkpoint: {checkpoint!r} is one file. Convert it to a directory first: "
            f"StableDiffusionPipeline.from_single_file({path.name!r}).save_pretrained('converted')."
        )
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1:
        raise FiguregroundError(
            f"checkpoint: there is no directory {checkpoint!r}. Give 'pocket', a diffusers directory, or a Hub id "
            "'user/name'."
        )
    return None


def fingerprint(checkpoint: str, revision: str | None) -> str:
    """Names a checkpoint's content: `sha256:…` over a local one's files, id and revision of one on the Hub.

    One that isn't on this machine is named as the Hub's are, so that a plan needs no weights.
    """
    try:
        folder = local_directory(checkpoint)
    except FiguregroundError:
        folder = None
    if folder is None:
        return f"{checkpoint}@{revision or 'main'}"
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors", ".txt") and p.is_file()):
        relative = file.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts):
            total.update(f"{relative.as_posix()}\0{_content(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _content(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        for i in range(SAMPLES):
            file.seek((size - SAMPLE) * i // (SAMPLES - 1))
            found.update(file.read(SAMPLE))
        return found.hexdigest()
