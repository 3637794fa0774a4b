"""Runs a transformers image-text-to-text model that answers questions about images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from figureground.core import libraries, signals
from figureground.core.accelerator import choose_device
from figureground.core.errors import FiguregroundError, join_names
from figureground.models.opening import open_network, open_part
from figureground.verification.yes_no import read_yes_or_no

libraries.import_silently("transformers")

PAIRS_AT_A_TIME = 16
"""Number of images with questions that are read in one batch; each may take a thousand tokens."""
LIKELY = 20
"""Number of most probable tokens among which "yes" or "no" must be, as in a server's answer."""


class LocalModel:
    """A model on this machine.

    Args:
        folder: A transformers directory with a processor that has a chat template.
        flag: The scorer in errors.
        device: auto, cpu, cuda, cuda:1 or mps; on a GPU the weights keep their own number format, else float32.

    Raises:
        FiguregroundError: The model doesn't open, is of another kind, has no chat template, or no token for "yes" or
            "no".
    """

    def __init__(self, folder: Path, flag: str, device: str):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._device, self._flag = choose_device(device), flag
        dtype: Any = torch.float32 if self._device.type == "cpu" else "auto"
        try:
            network, info = open_network(
                AutoModelForImageTextToText, folder, flag, dtype=dtype, output_loading_info=True
            )
            self._processor = open_part(AutoProcessor, folder, flag)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            if isinstance(error, FiguregroundError):
                raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise FiguregroundError(f"{flag} doesn't open as an image-text-to-text model: {first_line}") from error
        if info["missing_keys"]:
            raise FiguregroundError(f"{flag}: its weights lack {join_names(sorted(info['missing_keys']), 2)}.")
        if not getattr(self._processor, "chat_template", None):
            raise FiguregroundError(
                f"{flag}: its processor has no chat template, so the form of its prompts isn't known. Give a model "
                "that was tuned to follow instructions."
            )
        self._network = network.to(self._device).eval()
        parameters = inspect.signature(network.forward).parameters
        self._last_logits_only: dict[str, int] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"  # so that the last position of each row is where its answer begins
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._tokenizer = tokenizer
        self._yes, self._no = _find_answer_tokens(tokenizer, flag)

    def close(self) -> None:
        del self._network

    def ask(self, pairs: Sequence[tuple[Image.Image, str]]) -> tuple[list[float | None], list[str]]:
        """Return the probability of "yes" for each image and question; see `scorers.vlm.Asker`."""
        answers: list[float | None] = []
        unclear: list[str] = []
        for start in range(0, len(pairs), PAIRS_AT_A_TIME):
            signals.check()
            batch_answers, batch_unclear = self._ask_batch(pairs[start : start + PAIRS_AT_A_TIME])
            answers += batch_answers
            unclear += batch_unclear
        return answers, unclear

    @torch.inference_mode()
    def _ask_batch(self, pairs: Sequence[tuple[Image.Image, str]]) -> tuple[list[float | None], list[str]]:
        prompts = [self._prompt(question) for _, question in pairs]
        inputs = self._processor(
            text=prompts, images=[[image] for image, _ in pairs], padding=True, return_tensors="pt"
        ).to(self._device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self._network.dtype)
        logits = self._network(**inputs, **self._last_logits_only).logits[:, -1].cpu().double()
        if not torch.isfinite(logits).all():
            raise FiguregroundError(f"{self._flag} returned NaN or infinity. Its weights are damaged.")
        yes, no = (logits[:, ids].logsumexp(1) for ids in (self._yes, self._no))
        p = torch.sigmoid(yes - no).tolist()
        best = logits.argmax(1).tolist()
        likely = logits.topk(min(LIKELY, logits.shape[1]), dim=1).indices
        answer_ids = torch.tensor([*self._yes, *self._no], device=likely.device)
        is_clear = torch.isin(likely, answer_ids).any(1).tolist()
        unclear = [self._tokenizer.decode([token]) for token, clear in zip(best, is_clear, strict=True) if not clear]
        return [value if clear else None for value, clear in zip(p, is_clear, strict=True)], unclear

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


def _find_answer_tokens(tokenizer: Any, flag: str) -> tuple[list[int], list[int]]:
    """Return the ids of all tokens that write "yes" and "no"."""
    ids: dict[bool, list[int]] = {True: [], False: []}
    for token, id in tokenizer.get_vocab().items():
        is_yes = read_yes_or_no(token)
        if is_yes is None and len(token) <= 8 and "</w>" in token:
            is_yes = read_yes_or_no(token.removesuffix("</w>"))
        if is_yes is not None:
            ids[is_yes].append(id)
    if not all(ids.values()):
        raise FiguregroundError(f"{flag}: its vocabulary has no token for 'yes' or for 'no'.")
    return sorted(ids[True]), sorted(ids[False])
