"""Tiny random models for scorers, saved as transformers directories, and a server that answers like OpenAI's."""

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers as t

from figureground.pocket import captions
from figureground.verification.scorer import LabelScorer

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIGHT = {**SMALL, "image_size": 32, "patch_size": 8}
WORDS = ("Yes", "no", "Is", "there", "a", "in", "this", "image", "?", ".", "bird", "USER", "ASSISTANT", ":")
"""Vocabulary of the vision-language model; other words are unknown to it."""


def make_clip(out: Path, seed: int = 0, kind: str = "clip") -> Path:
    """Write a CLIP or SigLIP for images of 32 pixels, with the pocket's vocabulary."""
    tokenizer = captions.write_tokenizer(out)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 32, **ends}
    torch.manual_seed(seed)
    if kind == "clip":
        network = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=SIGHT, projection_dim=8))
    else:
        text["projection_size"] = 16
        network = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=SIGHT))
    with torch.no_grad():  # random features are much alike; this makes them differ
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        network.logit_scale.fill_(1.0)
    network.save_pretrained(out)
    t.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(out)  # fmt: skip
    return out


def make_vlm(out: Path, seed: int = 0, template: str | None = None) -> Path:
    """Write a LLaVA that knows a few words."""
    words = {word: i for i, word in enumerate(("<unk>", "<pad>", "<image>", *WORDS))}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", pad_token="<pad>", eos_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    text = t.LlamaConfig(
        **SMALL, vocab_size=len(words), num_key_value_heads=2, pad_token_id=1, eos_token_id=1, bos_token_id=0
    )
    vision = t.CLIPVisionConfig(**SIGHT)
    torch.manual_seed(seed)
    network = t.LlavaForConditionalGeneration(
        t.LlavaConfig(vision_config=vision, text_config=text, image_token_index=2, vision_feature_layer=-1)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    network.save_pretrained(out)
    template = template or (
        "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}"
        "{{ c.text }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
    )
    t.LlavaProcessor(
        image_processor=t.CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(out)  # fmt: skip
    return out


class Redness(LabelScorer):
    """A scorer of another package: the first label is the more probable the more red an image has."""

    KIND = "redness"

    def identify(self):
        return {}

    def open(self):
        pass

    def probabilities(self, images):
        red = np.array([np.asarray(image)[..., 0].mean() / 255 for image in images])
        found = {}
        for question in self.answerable_questions():
            rest = np.repeat((1 - red)[:, None], len(question.labels) - 1, axis=1) / (len(question.labels) - 1)
            found[question.what] = np.concatenate([red[:, None], rest], axis=1)
        return found


def completion(tokens: dict[str, float], text: str = "Yes") -> dict:
    """An answer in OpenAI's format with the probabilities of the likeliest first tokens."""
    top = [{"token": token, "logprob": math.log(p)} for token, p in tokens.items()]
    content = [{**top[0], "top_logprobs": top}] if top else []
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": {"content": content}}]}


@contextmanager
def server(answer):
    """Run a server on loopback; yield its URL and the list of requests (headers, body).

    Args:
        answer: Takes the request's body and its number from 0; returns status and a body (bytes, or a value for JSON),
            or None to close the connection without an answer.
    """
    requests: list[tuple[dict, dict]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                n = len(requests)
                requests.append((dict(self.headers), {**body, "path": self.path}))
            reply = answer(body, n)
            if reply is None:
                self.close_connection = True
                return
            status, data = reply
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1", requests
    finally:
        running.shutdown()
        running.server_close()
