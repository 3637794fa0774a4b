"""Noise follows from all 63 bits of a seed, and no part of the package seeds a generator in another way."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import figureground
from figureground.core.seeding import make_generator, seed_default_generators
from figureground.recipe.sample import derive_seed

ROOT = Path(figureground.__file__).parent
BUNDLED = "pocket"
"""Its loops trained the bundled weights, with a handful of small seeds."""


def noise(seed):
    return torch.randn(64, generator=make_generator(seed))


def test_seeds_that_differ_in_the_high_bits_alone_give_other_noise():
    low = 12345
    drawn = [noise(low + (high << 32)) for high in (0, 1, 2**30)]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(noise(low), noise(low))


def test_keys_whose_seeds_agree_in_the_low_32_bits_have_noise_of_their_own():
    """The first two of a dataset's keys for which torch's own seeding gives the same noise."""
    seen = {}
    for i in range(200_000):
        seed = derive_seed(0, "noise", f"train-0000-00-{i:05d}")
        other = seen.setdefault(seed & 0xFFFFFFFF, seed)
        if other != seed:
            break
    old = [torch.randn(64, generator=torch.Generator().manual_seed(each)) for each in (seed, other)]
    assert torch.equal(*old)
    assert not torch.equal(noise(seed), noise(other))


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_the_state_is_that_of_a_mersenne_twister_with_these_words(seed):
    """NumPy's own MT19937, given the same words, draws the same numbers: torch has read all of them."""
    twister = np.random.MT19937()
    words = np.random.SeedSequence(seed).generate_state(624)
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    drawn = torch.randint(2**16, (2000,), generator=make_generator(seed))
    assert (drawn.numpy() == twister.random_raw(2000) % 2**16).all()


def test_noise_is_standard_normal():
    drawn = torch.cat([noise(derive_seed(0, str(i))) for i in range(2000)])
    assert abs(float(drawn.mean())) < 0.015
    assert float(drawn.std()) == pytest.approx(1, abs=0.015)


def test_default_generators_are_seeded_whole_too():
    with torch.random.fork_rng():
        drawn = []
        for seed in (5, 5 + 2**40, 5):
            seed_default_generators(seed)
            drawn.append(torch.nn.Linear(8, 8).weight.detach())
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=str(seed)):
        make_generator(seed)


SEEDS = {
    "manual_seed",
    "manual_seed_all",
    "seed_all",
    "set_state",
    "set_rng_state",
    "set_seed",
    "RandomState",
    "Random",
}
DRAWS = re.compile(r"torch\.(rand\w*|normal|multinomial|bernoulli)|np\.random\.(?!default_rng|Generator)\w+")


def random_calls(path):
    """Calls of a file that seed a generator other than `make_generator`, or draw from one that nobody seeded."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and re.search(
            r"import random\b|from random\b", ast.unparse(node)
        ):
            yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        called, text = ast.unparse(node.func), ast.unparse(node)
        name = called.rpartition(".")[2]
        if (
            name in SEEDS
            or called in ("torch.Generator", "Generator", "torch.seed")
            or (name == "default_rng" and not re.search(r"derive_seed|self\._random", text))
            or (DRAWS.fullmatch(called) and "generator" not in {keyword.arg for keyword in node.keywords})
        ):
            yield text


def test_nothing_else_seeds_a_generator_or_draws_from_an_unseeded_one():
    found = {
        f"{path.relative_to(ROOT)}: {call}"
        for path in ROOT.rglob("*.py")
        if path != ROOT / "core" / "seeding.py" and path.relative_to(ROOT).parts[0] != BUNDLED
        for call in random_calls(path)
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(seed)", "torch.Generator(device).manual_seed(0)", "x = Generator()", "np.random.seed(0)",
        "torch.randn(3)", "torch.rand_like(x)", "np.random.permutation(3)", "np.random.default_rng(seed)",
        "np.random.default_rng()", "random.Random(3)", "import random", "torch.cuda.manual_seed_all(0)",
    ],
)  # fmt: skip
def test_such_calls_are_found(line, tmp_path):
    (tmp_path / "a.py").write_text(line)
    assert list(random_calls(tmp_path / "a.py"))
