"""YAML that is small and stands for much."""

import time

import pytest
import yaml

from figureground.core.yaml_documents import safe_load

pytestmark = pytest.mark.timeout(20)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(f'*{before}' for _ in range(9))}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300))


@pytest.mark.parametrize("text", [
    BOMB, MERGES, CHAIN, "a: &a [*a]", "&a {*a: 1}", "[" * 20_000, "[" * 150 + "]" * 150, "- " * 5000,
    "when: 2024-02-30", f"n: {'9' * 5000}", "x" * 5_000_000,
])  # fmt: skip
def test_a_document_that_costs_much_or_can_not_be_is_a_yaml_error(text: str) -> None:
    start = time.process_time()
    with pytest.raises(yaml.YAMLError):
        safe_load(text)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "text", ["", "a: 1", "a: &a [1, 2]\nb: *a\nc: {d: *a, e: *a}", "a: &a {x: 1}\nb: {<<: *a, y: 2}"]
)
def test_other_documents_are_what_yaml_makes_of_them(text: str) -> None:
    assert safe_load(text) == yaml.safe_load(text)
