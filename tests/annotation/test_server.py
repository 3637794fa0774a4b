import contextlib
import io
import json
import resource
import signal
import socket
import urllib.request

import commands
import psutil
import pytest
from PIL import Image
from review_server import fetch

from figureground.annotation.answers import ANNOTATIONS, read_answers
from figureground.annotation.assignment import Turns
from figureground.annotation.sampling import Wanted, draw, reference_keys
from figureground.annotation.server import ADDRESS, PORT
from figureground.shards.finished import FinishedDataset


def test_a_review_saves_answers_and_says_so_at_the_end(directory, serve):
    review = serve(directory, "--images", 5)
    status, shown = review.ask("next")
    assert status == 200
    for _ in range(3):
        status, shown = review.answer(shown["items"][0])
        assert status == 200
        assert len(read_answers(directory)) == shown["progress"]["mine"] * 2 + (
            shown["items"][0]["asked"][0]["answer"] is not None
        )
    assert review.ask("annotators") == (200, {"annotators": ["ana"]})
    review.process.send_signal(signal.SIGINT)
    output, errors = review.process.communicate(timeout=60)
    assert review.process.returncode == 0, errors
    assert "3 answers" in output
    assert "ana: 3" in output


def test_a_killed_review_loses_nothing_and_goes_on(directory, serve):
    review = serve(directory, "--images", 6)
    _, shown = review.ask("next")
    _, shown = review.answer(shown["items"][0], "no")
    open_item = shown["items"][0]["id"]
    review.process.kill()
    review.process.wait()
    assert [each.answer for each in read_answers(directory)] == ["no"]
    again = serve(directory)
    _, shown = again.ask("next", browser="new")
    assert shown["items"][0]["id"] == open_item
    assert shown["items"][0]["asked"][0]["answer"] == "no"


def test_sigterm_ends_a_review_as_any_command(directory, serve):
    review = serve(directory)
    review.process.terminate()
    review.process.communicate(timeout=60)
    assert review.process.returncode == 143


def test_a_full_disk_is_reported_and_the_answer_can_be_sent_again(directory, serve):
    review = serve(directory)
    _, shown = review.ask("next")
    _, shown = review.answer(shown["items"][0])
    size = next((directory / ANNOTATIONS).glob("*.jsonl")).stat().st_size
    server = psutil.Process(review.process.pid)
    server.rlimit(resource.RLIMIT_FSIZE, (size + 40, resource.RLIM_INFINITY))
    status, reply = review.answer(shown["items"][0])
    assert status == 507
    assert "not saved" in reply["error"]
    assert len(read_answers(directory)) == 1
    server.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert review.answer(shown["items"][0])[0] == 200
    assert len(read_answers(directory)) == 2


def test_only_those_who_know_the_address_are_served(directory, serve):
    review = serve(directory)
    _, shown = review.ask("next")
    image = f"image/{shown['items'][0]['id']}"
    root = "/".join(review.url.split("/")[:3])
    token = review.url.split("/")[3]
    assert len(token) >= 32
    for path in (
        "",
        "/",
        f"/{image}",
        "/api/next",
        f"/{token[:-1]}/",
        f"/{token}x/{image}",
        "//",
        f"/{token.lower()}/{image}",
    ):
        status, _, data = fetch(root + path)
        assert (status, token.encode() in data) == (404, False), path
    assert fetch(review.url + image)[0] == 200
    for path in ("image/" + "0" * 24, "image/../../recipe.json", "image/%2e%2e%2findex.json", "review.py", "image/"):
        assert fetch(review.url + path)[0] == 404, path


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8377", "127.0.0.1.evil.example", "", "[::2]"])
def test_other_hosts_are_not_served(directory, serve, host):
    """A page elsewhere can point its own name at 127.0.0.1 (DNS rebinding); its requests bear that name."""
    review = serve(directory)
    request = urllib.request.Request(review.url, headers={"Host": host})
    assert fetch(request)[0] == 421
    for name in ("localhost:9000", "[::1]:80"):  # a tunnel may change the port
        assert fetch(urllib.request.Request(review.url, headers={"Host": name}))[0] == 200


def test_requests_of_other_pages_are_refused(directory, serve):
    review = serve(directory)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert review.ask("next", headers)[0] == 421, headers
    assert review.ask("next", {"Content-Type": "text/plain"})[0] == 400
    assert review.ask("next", {"Origin": "http://127.0.0.1:1"})[0] == 200


def test_bodies_that_no_page_sends_are_refused(directory, serve):
    review = serve(directory)
    for body in (b"", b"[]", b"{", b"[" * 5000, b'{"annotator": 1}', b'{"annotator": "../x", "browser": "b"}'):
        request = urllib.request.Request(f"{review.url}api/next", body, {"Content-Type": "application/json"})
        status, _, data = fetch(request)
        assert status in (400, 409), body
        assert json.loads(data)["error"]
    with socket.create_connection(("127.0.0.1", int(review.url.split(":")[2].split("/")[0]))) as raw:
        token = review.url.split("/")[3]
        head = f"POST /{token}/api/next HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        assert b" 400 " in raw.recv(100)


def test_every_response_forbids_what_the_page_does_not_need(directory, serve):
    review = serve(directory)
    _, shown = review.ask("next")
    for path in ("", "review.js", "review.css", f"image/{shown['items'][0]['id']}", "nothing"):
        _, headers, data = fetch(review.url + path)
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert (
            policy["default-src"]
            == policy["frame-ancestors"]
            == policy["base-uri"]
            == policy["form-action"]
            == "'none'"
        )
        assert policy["script-src"] == policy["img-src"] == policy["connect-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert b"://" not in data or path.startswith("image/")  # nothing from elsewhere


def test_the_name_of_a_dataset_is_escaped(directory, serve):
    odd = directory.rename(directory.with_name("<script>alert(1)<"))
    _, _, data = fetch(serve(odd).url)
    assert b"<script>alert" not in data
    assert b"&lt;script&gt;alert(1)" in data


def test_images_are_png_without_metadata_and_references_look_like_the_rest(spurious, serve):
    dataset = FinishedDataset(spurious)
    turns = Turns(dataset, draw(dataset, Wanted(), reference_keys(dataset)))
    review = serve(spurious)
    kinds = set()
    for id, key in turns.keys.items():
        status, headers, data = fetch(f"{review.url}image/{id}")
        with Image.open(io.BytesIO(data)) as image:
            kinds.add((status, headers["Content-Type"], image.format, image.size, image.mode, bool(image.info)))
        assert fetch(f"{review.url}guide/{id}")[0] == 404
        assert key.encode() not in data
    assert kinds == {(200, "image/png", "PNG", (16, 16), "RGB", False)}


def test_a_guide_is_shown_on_request(tmp_path, serve):
    from tiny_datasets import COLUMNS, make_dataset

    columns = type(COLUMNS)(COLUMNS.foregrounds, COLUMNS.backgrounds, guide=True)
    review = serve(make_dataset(tmp_path / "set", columns=columns))
    _, shown = review.ask("next")
    status, headers, _ = fetch(f"{review.url}guide/{shown['items'][0]['id']}")
    assert (status, headers["Content-Type"]) == (200, "image/png")


def test_an_image_that_does_not_decode_is_reported_and_can_be_answered(directory, serve):
    review = serve(directory)
    _, shown = review.ask("next")
    for path in (directory / "data").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\r"))
    status, _, data = fetch(f"{review.url}image/{shown['items'][0]['id']}")
    assert status == 422
    assert json.loads(data)["error"]
    assert review.answer(shown["items"][0], "unsure")[0] == 200


def test_a_port_in_use_is_named_and_the_default_one_is_replaced(directory, serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = commands.run("review", str(directory), "--port", str(port))
    assert code == 2
    assert f"--port {port}" in errors
    code, _, errors = commands.run("review", str(directory), "--port", "99999")
    assert (code, "--port" in errors) == (2, True)
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # somebody else has it, which is as good
            taken.bind((ADDRESS, PORT))
            taken.listen()
        assert fetch(serve(directory, port=None).url)[0] == 200


def test_answers_about_another_dataset_stop_a_review_before_it_begins(directory, serve):
    review = serve(directory)
    _, shown = review.ask("next")
    review.answer(shown["items"][0])
    review.stop()
    path = directory / ANNOTATIONS / "ana.jsonl"
    path.write_text(path.read_text().replace(FinishedDataset(directory).identity()["shards"], "0" * 64))
    code, _, errors = commands.run("review", str(directory))
    assert (code, "ana.jsonl" in errors) == (1, True)


def test_a_clock_that_ran_back_is_reported(directory, serve):
    review = serve(directory)
    _, shown = review.ask("next")
    review.answer(shown["items"][0])
    path = directory / ANNOTATIONS / "ana.jsonl"
    path.write_text(path.read_text().replace('"time": "20', '"time": "30'))
    _, shown = review.ask("next")
    assert review.answer(shown["items"][0])[0] == 200
    review.process.send_signal(signal.SIGINT)
    _, errors = review.process.communicate(timeout=60)
    assert "ana: the clock was set back 1 time" in errors
    assert len(read_answers(directory)) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--images", "0"], "--images"), (["--split", "tests"], "--split"), (["--out", "x"], "--export"),
        (["--export", "mturk"], "--out"), (["--import", "x.csv", "--export", "mturk"], "--import"),
        (["--import", "x.txt"], ".csv"),
    ],
)  # fmt: skip
def test_wrong_use_is_named_before_anything_is_served(directory, arguments, named):
    code, _, errors = commands.run("review", str(directory), *arguments)
    assert code == 2
    assert named in errors
    assert not (directory / ANNOTATIONS).exists()
