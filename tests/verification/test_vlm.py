"""Questions to a vision-language model, here and on a server."""

import base64
import io
import json
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers as t
from commands import run, start, wait_for
from PIL import Image
from tiny_scorers import completion, make_vlm, server

from figureground.core.errors import FiguregroundError, UsageError
from figureground.verification import endpoint
from figureground.verification.local_vlm import LocalModel
from figureground.verification.verifying import verify

KEY = "sk-secret-of-the-test"
YES = completion({"Yes": 0.6, "No": 0.2, "The": 0.1})


def column(directory, name):
    return pq.read_table(directory / "_figureground/scores/verify.parquet")[name].to_pylist()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    monkeypatch.delenv(endpoint.KEY, raising=False)


def noise(n):
    pixels = np.random.default_rng(0).integers(0, 255, (n, 24, 24, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def test_a_local_models_yes_is_read_from_its_logits(vlm):
    questions = ["Is there a bird in this image ?", "Is there a ?"]
    answers, odd = LocalModel(vlm, "vlm", "cpu").ask(list(zip(noise(2), questions, strict=True)))
    network = t.LlavaForConditionalGeneration.from_pretrained(vlm).eval()
    processor = t.AutoProcessor.from_pretrained(vlm)
    for image, question, answer in zip(noise(2), questions, answers, strict=True):
        inputs = processor(text=f"USER: <image> {question} ASSISTANT:", images=image, return_tensors="pt")
        with torch.no_grad():
            p = network(**inputs).logits[0, -1].softmax(0)
        yes, no = (float(p[processor.tokenizer.convert_tokens_to_ids(word)]) for word in ("Yes", "no"))
        assert answer == pytest.approx(yes / (yes + no), abs=1e-5)
    assert odd == []


def test_a_local_model_scores_a_dataset(source, vlm):
    done = verify(source, [f"vlm:{vlm}"], device="cpu", show_progress=False)
    assert all(0 < p < 1 for what in ("foreground", "background") for p in column(source, f"vlm_llava_{what}_p"))
    assert not any(name.endswith("_rank") for name in pq.read_table(done.path).column_names)


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    model = make_vlm(tmp_path / "bare")
    (model / "chat_template.jinja").unlink()
    with pytest.raises(FiguregroundError, match="chat template"):
        LocalModel(model, "vlm", "cpu")


def test_a_model_of_another_kind_is_refused(source, clip):
    with pytest.raises(FiguregroundError, match=r"vlm:.*image-text-to-text"):
        verify(source, [f"vlm:{clip}"], show_progress=False)


def test_a_server_gets_image_and_question_and_its_yes_is_read(source, monkeypatch):
    monkeypatch.setenv(endpoint.KEY, KEY)
    with server(lambda body, n: (200, YES)) as (url, requests):
        done = verify(source, ["vlm:some/model"], endpoint=url, show_progress=False)
    assert column(source, "vlm_model_foreground_p") == pytest.approx([0.75] * 22)
    assert len(requests) == 44
    headers, body = requests[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["path"], body["model"], body["logprobs"]) == ("/v1/chat/completions", "some/model", True)
    texts = {part["text"] for _, each in requests for part in each["messages"][0]["content"] if part["type"] == "text"}
    assert texts == {
        *(f"Is there a {noun} in this image? Answer yes or no." for noun in ("bird", "cat")),
        *(f"Was this taken {phrase}? Answer yes or no." for phrase in ("on grass", "at night", "in snow")),
    }
    [image] = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (16, 16)
    assert done.results["vlm_model"].agree == {"foreground": (22, 22), "background": (22, 22)}
    written = [path.read_bytes() for path in source.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in data or url.encode() in data for data in written)


def test_with_ask_all_every_label_is_asked_about(source):
    def answer(body, n):
        text = body["messages"][0]["content"][1]["text"]
        return 200, completion({"yes": 0.9, "no": 0.1} if "cat" in text or "snow" in text else {"no": 1.0})

    with server(answer) as (url, requests):
        verify(source, ["v=vlm:m"], endpoint=url, ask_all=True, show_progress=False)
    assert len(requests) == 22 * 5
    assert set(column(source, "v_foreground_top")) == {"cat"}
    assert set(column(source, "v_background_top")) == {"snow"}
    assert set(column(source, "v_foreground_rank")) == {1, 2}


def test_a_model_that_says_yes_to_every_label_agrees_with_none(source):
    """Otherwise a model that can't see would confirm all labels."""
    with server(lambda body, n: (200, YES)) as (url, _):
        done = verify(source, ["v=vlm:m"], endpoint=url, ask_all=True, show_progress=False)
    assert set(column(source, "v_foreground_rank")) == {1}
    assert done.results["v"].agree == {"foreground": (0, 22), "background": (0, 22)}
    facts = json.loads((source / "_figureground/labels.json").read_text())["scorers"]["v"]
    assert {name: entry["right"] for name, entry in facts.items()} == {"foreground": 0.0, "background": 0.0}


def test_failures_that_pass_are_tried_again(source):
    def answer(body, n):
        return [(500, b"no"), None, (429, b"slow down")][n] if n < 3 else (200, YES)

    with server(answer) as (url, _):
        verify(source, ["v=vlm:m"], endpoint=url, show_progress=False)
    assert None not in column(source, "v_foreground_p")


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ((401, f"wrong key {KEY}".encode()), r"HTTP 401.*FIGUREGROUND_API_KEY"),
        ((404, b'{"error": "no model m"}'), r"HTTP 404.*no model m"),
        ((500, b"boom"), r"5 attempts.*HTTP 500: boom"),
        ((200, b"<html>hello</html>"), r"OpenAI-compatible.*<html>hello"),
        ((200, {"choices": []}), "OpenAI-compatible"),
        ((200, {"choices": [{"message": {"content": "Yes"}}]}), "'m' returned no logprobs"),
        ((302, b""), "HTTP 302"),
        (None, "5 attempts"),
    ],
)
def test_a_server_that_does_not_answer_as_it_should_is_named(source, monkeypatch, reply, named):
    monkeypatch.setenv(endpoint.KEY, KEY)
    with server(lambda body, n: reply) as (url, _):
        with pytest.raises(FiguregroundError, match=named) as error:
            verify(source, ["vlm:m"], endpoint=url, show_progress=False)
        assert url.partition("//")[2] in str(error.value) or "logprobs" in named
    assert KEY not in str(error.value)
    assert error.value.__cause__ is None


def test_a_server_that_is_not_there_is_named(source):
    with pytest.raises(FiguregroundError, match=r"127\.0\.0\.1:9.*5 attempts.*refused"):
        verify(source, ["vlm:m"], endpoint="http://127.0.0.1:9/v1", show_progress=False)


def test_a_model_that_says_neither_yes_nor_no_is_given_up(source):
    banana = completion({"Banana": 0.9, "I": 0.1}, "Banana")
    refused = pytest.raises(FiguregroundError, match=r"vlm:m.*'Banana'")
    with server(lambda body, n: (200, banana)) as (url, _), refused:
        verify(source, ["vlm:m"], endpoint=url, show_progress=False)


def test_single_answers_of_other_words_are_counted_and_asked_again_by_the_next_run(source):
    with server(lambda body, n: (200, completion({"Hm": 1.0}) if n == 5 else YES)) as (url, requests):
        done = verify(source, ["v=vlm:m"], endpoint=url, show_progress=False)
        assert sum(done.results["v"].missing.values()) == 1
        assert (column(source, "v_foreground_p") + column(source, "v_background_p")).count(None) == 1
        before = len(requests)
        again = verify(source, ["v=vlm:m"], endpoint=url, show_progress=False)
        assert (again.results["v"].new, again.results["v"].missing) == (1, {})
        assert len(requests) - before == 2


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("localhost:8000", "http://localhost"),
        ("ftp://host/v1", "http://localhost"),
        ("http://user:pass@host/v1", "user name"),
        ("https://host/v1?key=abc", "query"),
        ("http://example.org/v1", "unencrypted"),
        ("http://host:99999999/v1", "URL"),
    ],
)
def test_a_url_that_could_reveal_a_key_is_refused(source, monkeypatch, url, named):
    monkeypatch.setenv(endpoint.KEY, KEY)
    with pytest.raises(UsageError, match=named) as error:
        verify(source, ["vlm:m"], endpoint=url)
    assert KEY not in str(error.value)


def test_a_key_that_no_header_can_hold_is_not_shown(source, monkeypatch):
    monkeypatch.setenv(endpoint.KEY, f"{KEY}\n{KEY}")
    with pytest.raises(UsageError, match=endpoint.KEY) as error:
        verify(source, ["vlm:m"], endpoint="http://localhost:1/v1", show_progress=False)
    assert KEY not in str(error.value)


def test_a_run_that_waits_for_a_server_stops_at_once_and_keeps_its_answers(source):
    def answer(body, n):
        if n >= 20:
            time.sleep(30)
        return 200, YES

    with server(answer) as (url, requests):
        process = start("verify", str(source), "--scorer", "v=vlm:m", "--endpoint", url, "--batch-size", "4")
        wait_for(lambda: len(requests) > 20, process)
        begun = time.monotonic()
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        assert time.monotonic() - begun < 10
    assert (source / "_figureground/verify/v.jsonl").read_bytes().count(b"\n") == 1 + 8


def test_the_command_tells_what_the_server_agreed_with(source):
    with server(lambda body, n: (200, YES)) as (url, _):
        code, out, err = run("verify", str(source), "--scorer", "v=vlm:m", "--endpoint", url)
    assert (code, err) == (0, "")
    assert "v: 22 images scored; agrees with foreground 22 of 22 (100.0 %)" in out
