"""Language-guided segmentation: finds the object named by a phrase in an image.

All kinds of segmenters are listed in `models.segmenter_files`. Two of them are here. CLIPSeg (Lüddecke and Ecker 2022,
arXiv 2112.10003) predicts a probability for every pixel. Grounding DINO (Liu et al. 2023, arXiv 2303.05499) proposes
boxes, and SAM (Kirillov et al. 2023, arXiv 2304.02643) segments the objects in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from figureground.core import libraries
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.files import read_json
from figureground.models.bundled import SEGMENTER
from figureground.models.opening import open_network, open_part, refuse_code
from figureground.models.parts import check_words
from figureground.models.segmenter_files import BOXES, MASKS, POCKET, find_kind
from figureground.vision.model_files import check_weights, download, hash_files
from figureground.vision.preprocessing import Preprocessing, read_preprocessing, to_pixels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

libraries.import_silently("transformers")

NOTHING, EVERYTHING = "nothing found", "covers everything"
"""Reasons for having no mask."""

MIN_SCORE = 0.25
"""Minimum score of a box, as in Grounding DINO's processor."""
MAX_BOXES = 32
"""Maximum number of segmented boxes per image, the best first."""


class Segmenter(Protocol):
    """Finds the object named by a phrase in an image."""

    name: str
    """The name that the user gave; for a local directory, its last part."""
    facts: dict[str, Any]
    """Description for provenance; JSON-serialisable, without paths."""

    def __call__(self, images: Sequence[Image.Image], phrases: Sequence[str]) -> list[np.ndarray]:
        """Segment one phrase in each image, each image independently.

        Args:
            images: n images of any sizes.
            phrases: n phrases, such as `a mug`, one per image.

        Returns:
            n arrays, float32 (height, width) of each image's own size, in 0..1: the probability that a pixel shows the
            named object.

        Raises:
            FiguregroundError: A phrase is empty or too long, or the output isn't finite.
            ValueError: The numbers of phrases and images differ.
        """
        ...


class Clipseg:
    """A CLIPSeg model. The whole image, of any shape, is resized to the model's square input.

    Args:
        network: A `CLIPSegForImageSegmentation`.
        tokenizer: Its tokenizer.
        preprocessing: Resizes to a square and normalises.
    """

    def __init__(
        self, network: PreTrainedModel, tokenizer: Any, preprocessing: Preprocessing, name: str, facts: dict[str, Any]
    ):
        self.name, self.facts = name, facts
        self._network, self._tokenizer, self._preprocessing = network, tokenizer, preprocessing
        self._longest = int(network.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], phrases: Sequence[str]) -> list[np.ndarray]:
        return [self._segment(image, phrase) for image, phrase in zip(images, phrases, strict=True)]

    def _segment(self, image: Image.Image, phrase: str) -> np.ndarray:
        ids = _tokenize(self._tokenizer, phrase, phrase, self._longest, self.name)
        weight = next(self._network.parameters())
        pixels = self._preprocessing(to_pixels(image)[None].to(weight.device))
        logits = self._network(pixel_values=pixels, input_ids=ids.to(weight.device)).logits.float()
        _refuse_non_finite(logits, self.name)
        logits = logits.view(1, 1, *logits.shape[-2:])
        fitted = F.interpolate(logits, (image.height, image.width), mode="bilinear", antialias=True)
        return fitted[0, 0].sigmoid().cpu().numpy()


class GroundedSam:
    """Grounding DINO and SAM. A pixel's probability is the best score of a box whose mask covers it.

    Scores of good boxes start at about 0.3, so masks need a lower threshold than with CLIPSeg.

    Args:
        detector: A `GroundingDinoForObjectDetection`, with its tokenizer and image processor.
        masker: A `SamModel`, with its image processor.
    """

    def __init__(
        self,
        detector: tuple[PreTrainedModel, Any, Any],
        masker: tuple[PreTrainedModel, Any],
        name: str,
        facts: dict[str, Any],
    ):
        from transformers import SamProcessor

        self.name, self.facts = name, facts
        self._detector, self._tokenizer, self._detector_processor = detector
        self._masker, self._masker_processor = masker[0], SamProcessor(masker[1])

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], phrases: Sequence[str]) -> list[np.ndarray]:
        maps = []
        for image, phrase in zip(images, phrases, strict=True):
            image = image.convert("RGB")
            boxes, scores = self._detect(image, phrase)
            maps.append(self._segment_boxes(image, boxes, scores))
        return maps

    def _detect(self, image: Image.Image, phrase: str) -> tuple[Tensor, Tensor]:
        """Return boxes, (n, 4): left, top, right, bottom in pixels; and scores, (n,), in 0..1; best first."""
        text = phrase.strip().lower().rstrip(".") + "."  # as in training: each phrase ends in a full stop
        ids = _tokenize(self._tokenizer, phrase, text, int(self._detector.config.max_text_len), self.name)
        device = next(self._detector.parameters()).device
        inputs = self._detector_processor(image, return_tensors="pt").to(device)
        out = self._detector(**inputs, input_ids=ids.to(device), token_type_ids=torch.zeros_like(ids).to(device))
        scores = out.logits[0].float().sigmoid().amax(1)
        _refuse_non_finite(scores, self.name)
        scores, order = scores.sort(descending=True, stable=True)
        order = order[scores >= MIN_SCORE][:MAX_BOXES]
        x, y, width, height = out.pred_boxes[0, order].float().unbind(1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1).clamp(0, 1)
        edges = torch.tensor([image.width, image.height] * 2, device=device)
        return (corners * edges).cpu(), scores[: len(order)].cpu()

    def _segment_boxes(self, image: Image.Image, boxes: Tensor, scores: Tensor) -> np.ndarray:
        best = np.zeros((image.height, image.width), np.float32)
        if not len(boxes):
            return best
        device = next(self._masker.parameters()).device
        inputs = self._masker_processor(image, input_boxes=[boxes.tolist()], return_tensors="pt")
        out = self._masker(
            pixel_values=inputs["pixel_values"].to(device),
            input_boxes=inputs["input_boxes"].float().to(device),
            multimask_output=False,
        )
        _refuse_non_finite(out.pred_masks, self.name)
        (masks,) = self._masker_processor.image_processor.post_process_masks(
            [out.pred_masks[0].float().cpu()], inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        for mask, score in zip(masks[:, 0].numpy(), scores.tolist(), strict=True):
            best = np.maximum(best, mask * np.float32(score))
        return best


def open_segmenter(name: str, *, device: str | torch.device = "cpu") -> Segmenter:
    """Open a segmenter, in float32.

    Args:
        name: `pocket`, the small bundled CLIPSeg for the drawn world's nouns; a directory or a Hub id of a transformers
            CLIPSeg; `grounding-dino:ID_OR_DIR+sam:ID_OR_DIR`; `onnx:FILE`, a salient-object network; or a name of a
            kind that another package adds.

    Raises:
        FiguregroundError: The model is missing, unreachable, of another kind, pickle-only or damaged.
    """
    kind, rest = find_kind(name)
    segmenter: Segmenter = kind.open(rest, device)
    return segmenter


def decide_mask(
    probability: np.ndarray, threshold: float = 0.5, min_share: float = 0.005, max_share: float = 0.9, grow: int = 0
) -> np.ndarray | str:
    """Return a mask from probabilities, or the reason for having none.

    Args:
        probability: (height, width), in 0..1, from a `Segmenter`.
        threshold: Pixels with a probability above it belong to the mask.
        min_share: Minimum share of the image covered by the mask before growing; below it, `nothing found`.
        max_share: Maximum share covered after growing; above it, `covers everything`.
        grow: Number of pixels added on all sides, including diagonals, 0 or more.

    Returns:
        bool (height, width), or the reason.

    Raises:
        RecipeError: `grow` is negative.
    """
    if grow < 0:
        raise RecipeError("grow", f"{grow} is below 0.")
    mask = probability > threshold
    if not mask.any() or mask.mean() < min_share:
        return NOTHING
    if grow:
        rows = F.max_pool2d(torch.from_numpy(mask)[None].float(), (2 * grow + 1, 1), 1, (grow, 0))
        mask = F.max_pool2d(rows, (1, 2 * grow + 1), 1, (0, grow))[0].bool().numpy()
    return EVERYTHING if mask.mean() > max_share else mask


def _tokenize(tokenizer: Any, phrase: str, text: str, limit: int, name: str) -> Tensor:
    """Return the tokens of `text`, the model's form of a phrase, int64 (1, length)."""
    if not phrase.strip(" ."):
        raise FiguregroundError(f"segmenter {name!r}: the phrase {phrase!r} is empty.")
    ids: Tensor = tokenizer(text, return_tensors="pt").input_ids
    limit = min(limit, int(tokenizer.model_max_length))
    if ids.shape[1] > limit:
        raise FiguregroundError(
            f"segmenter {name!r} reads {limit} tokens, but the phrase {phrase!r} has {ids.shape[1]}. Shorten it."
        )
    return ids


def _refuse_non_finite(numbers: Tensor, name: str) -> None:
    if not torch.isfinite(numbers).all():
        raise FiguregroundError(
            f"segmenter {name!r} gives NaN or infinity: its weights are damaged. Download it again."
        )


# Opening


def open_clipseg(name: str, device: str | torch.device) -> Clipseg:
    """Open a CLIPSeg from a directory or the Hub."""
    folder, model_name, facts = _find_folder(name)
    return _open_clipseg(folder, model_name, facts, device)


def open_pocket(device: str | torch.device) -> Clipseg:
    """Open the bundled CLIPSeg."""
    if not (SEGMENTER / "config.json").is_file():
        raise FiguregroundError(
            "segmenter: the pocket's segmenter is missing from this install. Reinstall figureground, or train it: "
            "python -m figureground.pocket.segmenter --out builders/figureground/pocket/segmenter_weights"
        )
    return _open_clipseg(SEGMENTER, POCKET, {}, device)


def _open_clipseg(folder: Path, name: str, facts: dict[str, Any], device: str | torch.device) -> Clipseg:
    from transformers import CLIPSegForImageSegmentation

    network = _open_network(folder, name, CLIPSegForImageSegmentation, "clipseg", device)
    tokenizer = _open_part(folder, name, "tokenizer")
    check_words(tokenizer.get_vocab(), network.config.text_config.vocab_size, f"segmenter {name!r}: its two parts")
    preprocessing = read_preprocessing(folder, name)
    size = preprocessing.crop or preprocessing.size or network.config.vision_config.image_size
    square = (size, size) if isinstance(size, int) else (size[0], size[0])
    preprocessing = replace(preprocessing, size=square, longest=None, crop=None)
    return Clipseg(network, tokenizer, preprocessing, name, {"name": name, **_read_facts(folder, network), **facts})


def open_grounded(detector: str, masker: str, device: str | torch.device) -> GroundedSam:
    """Open Grounding DINO and SAM, each from a directory or the Hub."""
    from transformers import GroundingDinoForObjectDetection, SamModel

    folder, model_name, detector_facts = _find_folder(detector)
    network = _open_network(folder, model_name, GroundingDinoForObjectDetection, "grounding-dino", device)
    parts = network, _open_part(folder, model_name, "tokenizer"), _open_part(folder, model_name, "image processor")
    check_words(parts[1].get_vocab(), network.config.text_config.vocab_size, f"segmenter {model_name!r}: its two parts")
    detector_facts = {"name": model_name, **_read_facts(folder, network), **detector_facts}
    folder, model_name, masker_facts = _find_folder(masker)
    network = _open_network(folder, model_name, SamModel, "sam", device)
    masker_facts = {"name": model_name, **_read_facts(folder, network), **masker_facts}
    name = f"{BOXES}{detector_facts['name']}{MASKS}{masker_facts['name']}"
    return GroundedSam(
        parts, (network, _open_part(folder, model_name, "image processor")), name,
        {
            "name": name, "detector": detector_facts, "masker": masker_facts, "least_score": MIN_SCORE,
            "most_boxes": MAX_BOXES,
        },
    )  # fmt: skip


def _find_folder(name: str) -> tuple[Path, str, dict[str, Any]]:
    """Return a model's local folder, name and revision, downloading it from the Hub if necessary."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path, path.resolve().name, {}
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FiguregroundError(
            f"segmenter: there is no directory {name!r}. Give 'pocket', the directory or the Hub id 'user/name' of a "
            f"CLIPSeg, or '{BOXES}ID_OR_DIRECTORY{MASKS}ID_OR_DIRECTORY', or 'onnx:FILE'."
        )
    folder = download("segmenter", name, None, ("*.json", "*.txt", "*.safetensors"))
    return folder, name, {"revision": folder.name}


def _open_network(folder: Path, name: str, kind: Any, model_type: str, device: str | torch.device) -> Any:
    """Open the weights of a directory in float32; they must be complete, finite and not a pickle."""
    from safetensors import SafetensorError

    _check_files(folder, name, kind.__name__, model_type)
    try:
        network, info = open_network(kind, folder, f"segmenter {name!r}", dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"segmenter {name!r} doesn't open: {first}") from error
    if info["missing_keys"]:
        raise FiguregroundError(
            f"segmenter {name!r} is not a complete {kind.__name__}: its weights lack {sorted(info['missing_keys'])[0]}."
        )
    return network.requires_grad_(False).eval().to(device)


def _check_files(folder: Path, name: str, kind: str, model_type: str) -> None:
    """Check from its files that a directory holds a model of the right kind, with weights that aren't pickles."""
    try:
        config = read_json(folder / "config.json")
        found_type = config.get("model_type")
    except FileNotFoundError:
        raise FiguregroundError(f"segmenter {name!r} is not a transformers directory: it has no config.json.") from None
    except (ValueError, AttributeError):
        raise FiguregroundError(f"segmenter {name!r}: its config.json doesn't parse. Download it again.") from None
    if found_type != model_type:
        raise FiguregroundError(f"segmenter {name!r} is a {found_type!r} model; give a {model_type!r} model ({kind}).")
    refuse_code(folder, f"segmenter {name!r}")
    check_weights(folder, "segmenter", name, kind)
    if not (folder / "preprocessor_config.json").is_file():
        raise FiguregroundError(
            f"segmenter {name!r} has no preprocessor_config.json, which describes how to resize and normalise images."
        )


def _open_part(folder: Path, name: str, part: str) -> Any:
    """Open the tokenizer or the image processor of a directory; the latter uses Pillow, not torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        if part == "tokenizer":
            return open_part(AutoTokenizer, folder, f"segmenter {name!r}")
        return open_part(AutoImageProcessor, folder, f"segmenter {name!r}", backend="pil")
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"segmenter {name!r}: its {part} doesn't open: {first}") from error


def _read_facts(folder: Path, network: PreTrainedModel) -> dict[str, Any]:
    """Return the architecture and the SHA-256 of everything that affects results: weights, settings, vocabulary."""
    files = (path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt"))
    return {"architecture": type(network).__name__, "sha256": hash_files(files)}
