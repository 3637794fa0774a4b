"""The page in headless Chromium, used as people use it."""

import resource

import psutil
import pytest
from browsers import CONTRAST
from tiny_datasets import make_dataset

from figureground.annotation.answers import ANNOTATIONS, read_answers
from figureground.annotation.assignment import Turns
from figureground.annotation.sampling import Wanted, draw
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import Shard

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


class Person:
    """One person in a browser of their own."""

    def __init__(self, chromium, url: str, name: str, **context):
        self.page = chromium.new_context(**context).new_page()
        self.page.set_default_timeout(60_000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.get_by_label("Your name").fill(name)
        self.page.keyboard.press("Enter")
        self.page.locator("#tools").wait_for()

    def press(self, key: str, route: str = "answer") -> bool:
        """Press a key that sends something, wait for what is then shown, and return whether it was taken."""
        with self.page.expect_event(
            "requestfinished" if route else "request", lambda r: r.url.endswith(f"/api/{route}")
        ):
            self.page.keyboard.press(key)
        self.settle()
        return not self.alert

    def settle(self) -> None:
        self.page.wait_for_function("() => !document.body.hasAttribute('aria-busy')")

    @property
    def alert(self) -> str:
        box = self.page.get_by_role("alert")
        return box.inner_text() if box.is_visible() else ""

    @property
    def image(self) -> str:
        """Name of the image that is shown; empty at the end."""
        image = self.page.locator(".one img").first
        return image.get_attribute("src").removeprefix("image/") if image.count() else ""

    @property
    def question(self) -> str:
        return self.page.locator(".question.now h2").inner_text()


def answer_all(person: Person, most: int, pressed: dict, choose) -> None:
    """Answer up to `most` questions by keyboard, noting what the page has taken."""
    for _ in range(most):
        if not (image := person.image):
            return
        question, key = person.question, choose(person.image, person.question)
        assert person.press(key), person.alert
        pressed[image, question] = key


def choose(image: str, question: str) -> str:
    """Yes, no or can't tell, by the image."""
    return "ynt"[(int(image, 16) + len(question)) % 3]


@pytest.mark.slow
def test_two_annotators_label_sixty_images_and_lose_nothing_when_the_server_is_killed(tmp_path, chromium, serve):
    directory = make_dataset(tmp_path / "set", shards=(Shard("train", 0, 1, 40), Shard("validation", 0, 1, 40)))
    review = serve(directory, "--images", 60, "--overlap", 1)
    pressed: dict[str, dict] = {"ana": {}, "bo": {}}
    people = {name: Person(chromium, review.url, name) for name in pressed}
    answer_all(people["ana"], 51, pressed["ana"], choose)
    answer_all(people["bo"], 20, pressed["bo"], choose)
    review.process.kill()
    review.process.wait()

    before = people["ana"].image, people["ana"].question
    people["ana"].page.keyboard.press("y")
    people["ana"].page.get_by_text("NOT SAVED").wait_for()
    assert (people["ana"].image, people["ana"].question) == before  # no other image is shown

    dataset = FinishedDataset(directory)
    saved = read_answers(directory)
    assert len([each for each in saved if each.annotator == "ana"]) == 51
    assert len([each for each in saved if each.annotator == "bo"]) == 20

    again = serve(directory)
    for name in people:
        people[name].page.context.close()
        people[name] = Person(chromium, again.url, name)
    assert (people["ana"].image, people["ana"].question) == before
    for name in people:
        answer_all(people[name], 200, pressed[name], choose)
        assert people[name].page.get_by_role("heading", name="Done").is_visible()
        assert people[name].problems == []

    turns = Turns(dataset, draw(dataset, Wanted(images=60, overlap=1)))
    texts = {(key, q.text): q.name for key, item in turns.items.items() for q in turns.questions.about(item)}
    found = {(each.annotator, each.key, each.question): each for each in read_answers(directory)}
    assert len(found) == 2 * 60 * 2
    for name in pressed:
        assert len(pressed[name]) == 120
        for (image, question), key in pressed[name].items():
            each = found[name, turns.keys[image], texts[turns.keys[image], question]]
            assert each.answer == {"y": "yes", "n": "no", "t": "unsure"}[key]
            assert 0 <= each.seconds < 600


def test_a_full_disk_is_reported_and_the_image_stays_until_the_answer_is_saved(directory, chromium, serve):
    review = serve(directory)
    ana = Person(chromium, review.url, "ana")
    ana.press("y")
    server, size = psutil.Process(review.process.pid), (directory / ANNOTATIONS / "ana.jsonl").stat().st_size
    server.rlimit(resource.RLIMIT_FSIZE, (size + 40, resource.RLIM_INFINITY))
    before = ana.image
    assert not ana.press("n")
    assert "NOT SAVED" in ana.alert
    assert "ana.jsonl" in ana.alert
    ana.page.keyboard.press("y")  # keys do nothing meanwhile
    assert ana.image == before
    server.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ana.page.get_by_role("button", name="Try again").click()
    ana.settle()
    assert not ana.alert
    assert ana.image != before
    assert [each.answer for each in read_answers(directory)] == ["yes", "no"]


def test_two_browsers_of_one_annotator_are_told_what_was_replaced(directory, chromium, serve):
    review = serve(directory, "--images", 1)
    first, second = Person(chromium, review.url, "ana"), Person(chromium, review.url, "ana")
    assert first.image == second.image  # the only one that is left
    first.press("y")
    second.press("n")
    assert "replaces" in second.page.get_by_role("status").inner_text()
    assert [each.answer for each in read_answers(directory)] == ["no"]


def test_a_grid_is_marked_saved_and_undone_by_keyboard(directory, chromium, serve):
    ana = Person(chromium, serve(directory).url, "ana")
    ana.press("v", "next")
    tiles = ana.page.locator(".tile")
    count = tiles.count()
    assert count > 3
    for key in ("ArrowRight", "n", "ArrowRight", "t", "a", "ArrowLeft", "ArrowLeft", "Space"):
        ana.page.keyboard.press(key)
    assert tiles.nth(0).get_attribute("aria-label") == f"Image 1 of {count}: No"
    assert tiles.nth(2).get_attribute("aria-label") == f"Image 3 of {count}: Can’t tell, Artefacts"
    ana.press("Enter")
    answers = [each.answer for each in read_answers(directory) if each.question != "artefacts"]
    assert answers == ["no", "no", "unsure", *["yes"] * (count - 3)]
    ana.press("z", "undo")
    assert read_answers(directory) == []
    assert f"{count + 1} answers" in ana.page.get_by_role("status").inner_text()
    assert ana.problems == []


def test_a_grid_without_a_usual_answer_saves_what_is_marked(spurious, chromium, serve):
    ana = Person(chromium, serve(spurious, "--images", 4).url, "ana")
    ana.press("v", "next")
    for usual in ("no", "yes"):  # the class, then its feature
        while usual in ana.page.locator(".hint").inner_text():
            ana.press("Enter")
            ana.settle()
    save = ana.page.locator("#save")
    assert "photograph" in ana.page.locator(".grid h2").inner_text()
    assert save.is_disabled()
    ana.page.keyboard.press("n")
    assert save.inner_text() == "Save 1 answer"
    ana.press("Enter")
    found = [(each.question, each.answer) for each in read_answers(spurious)]
    assert {each for each in found if each[0] != "photograph"} == {("class", "no"), ("feature", "yes")}
    assert [each for each in found if each[0] == "photograph"] == [("photograph", "no")]


def test_undo_flags_and_help_work_by_keyboard_and_shortcuts_can_be_switched_off(directory, chromium, serve):
    ana = Person(chromium, serve(directory).url, "ana")
    image = ana.image
    ana.press("u")
    assert ana.page.get_by_role("button", name="Unsafe").get_attribute("aria-pressed") == "true"
    ana.press("y")
    ana.press("n")
    assert ana.image != image
    ana.press("z", "undo")
    assert ana.image == image
    ana.page.keyboard.press("h")
    ana.page.get_by_label("Letters and digits are shortcuts").uncheck()
    ana.page.keyboard.press("Escape")
    ana.page.keyboard.press("y")
    ana.page.keyboard.press("Tab")
    assert {(each.question, each.answer) for each in read_answers(directory)} == {
        ("unsafe", "yes"),
        ("foreground", "yes"),
    }


def test_a_screen_reader_hears_the_question_the_answers_and_what_was_saved(directory, chromium, serve):
    ana = Person(chromium, serve(directory).url, "ana")
    assert ana.page.evaluate("document.activeElement.textContent") == ana.question
    region = ana.page.get_by_role("region", name=ana.question)
    for name in ("Yes", "No", "Can’t tell"):
        assert region.get_by_role("button", name=name).is_visible()
    assert ana.page.get_by_role("img", name="The image to judge").is_visible()
    assert ana.page.get_by_role("progressbar", name="Images answered").is_visible()
    ana.press("y")
    assert ana.page.get_by_role("status").inner_text() == "Saved."
    assert ana.page.evaluate("document.activeElement.textContent") == ana.question


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
def test_everything_fits_and_can_be_read(directory, chromium, serve, device, scheme):
    ana = Person(chromium, serve(directory).url, "ana", color_scheme=scheme, **device)
    for view in ("one", "grid"):
        if view == "grid":
            ana.press("v", "next")
        else:
            ana.page.get_by_role("button", name="No").first.click()
            ana.settle()
        width, window = ana.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= window
        ratios = ana.page.evaluate(CONTRAST)
        assert len(ratios) > 8
        assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
    sizes = ana.page.evaluate(
        "[...document.querySelectorAll('button')].map((b) => b.getBoundingClientRect().height).filter(Boolean)"
    )
    assert min(sizes) >= 24  # WCAG 2.2, target size
    assert ana.problems == []
    assert {url.split("/")[2] for url in ana.requests} == {ana.page.url.split("/")[2]}  # nothing comes from elsewhere


def test_labels_are_shown_as_text(tmp_path, chromium, serve):
    from tiny_datasets import COLUMNS

    columns = type(COLUMNS)(("<img src=x onerror=alert(1)>", "cat"), ("<script>", "it's & so"))
    ana = Person(chromium, serve(make_dataset(tmp_path / "set", columns=columns)).url, "ana")
    texts = set()
    for _ in range(8):
        texts.add(ana.question)
        ana.press("y")
    assert "Is there a <img src=x onerror=alert(1)>?" in texts
    assert ana.page.locator(".question img").count() == 0
    assert ana.problems == []
