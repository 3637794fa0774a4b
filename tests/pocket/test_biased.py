"""The biased world: a class comes with its look, and is hard to see, as often as asked."""

from collections import Counter

import numpy as np
import pytest

from figureground.pocket import biased, world


def covered(mask):
    """Share of the image."""
    return np.asarray(mask).mean() / 255


def test_every_class_has_a_look_of_its_own():
    assert tuple(biased.LOOK_BY_CLASS) == world.FOREGROUNDS
    assert len(set(biased.LOOK_BY_CLASS.values())) == len(world.FOREGROUNDS)
    assert set(biased.LOOK_BY_CLASS.values()) < set(biased.ALL_LOOKS)


def test_to_name_a_noun_is_not_to_name_a_class_or_its_look():
    nouns = Counter(look.partition(":")[0] for look in biased.LOOK_BY_CLASS.values())
    assert set(nouns) == set(world.PROPS)
    assert sum(count > 1 for count in nouns.values()) == 4
    assert max(nouns.values()) <= world.LOOKS - 2


@pytest.mark.parametrize(("share", "hard"), [(0.95, 0.5), (0.5, 0.2)])
def test_looks_and_hard_views_are_as_frequent_as_asked_and_independent(share, hard):
    rng = world.generator("test biased", 0)
    shown = [biased.sample(rng, share, hard) for _ in range(3000)]
    with_look = np.array([s.look == biased.LOOK_BY_CLASS[s.foreground] for s in shown])
    hard_to_see = np.array([s.layout is not None for s in shown])
    assert abs(with_look.mean() - share) < 0.03
    assert abs(hard_to_see.mean() - hard) < 0.03
    assert abs(with_look[hard_to_see].mean() - with_look[~hard_to_see].mean()) < 0.05
    assert min(Counter(s.foreground for s in shown).values()) > 200
    assert min(Counter(s.background for s in shown).values()) > 200


def test_without_its_look_a_class_has_another_or_none():
    rng = world.generator("test biased", 1)
    shown = [biased.sample(rng, share=0.0) for _ in range(600)]
    assert not any(s.look == biased.LOOK_BY_CLASS[s.foreground] for s in shown)
    assert 230 < sum(s.look is None for s in shown) < 370
    assert {s.look for s in shown} == {*biased.ALL_LOOKS, None}


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_a_hard_view_shows_less_of_the_object_and_all_of_the_look(share):
    def draw(hard):
        rng = world.generator("test biased view", 0)
        shown = [biased.sample(rng, share, hard) for _ in range(100)]
        return [biased.draw(s, rng) for s in shown if (s.look is not None) == (share == 1.0)]

    hard, plain = draw(1.0), draw(0.0)
    seen = np.array([covered(scene.foreground) for scene in hard])
    assert seen.mean() < 0.4 * np.mean([covered(scene.foreground) for scene in plain])
    assert (seen > 0).mean() > 0.9
    if share:
        assert np.mean([covered(s.prop) for s in hard]) > 1.3 * np.mean([covered(s.prop) for s in plain])


def test_a_drawing_is_of_the_class_that_its_label_says():
    for seed in range(20):
        drawn = biased.draw_biased(world.generator("test label", seed), size=16)
        assert drawn.image.size == (16, 16)
        shown = biased.sample(world.generator("test label", seed))
        assert world.FOREGROUNDS[drawn.label] == shown.foreground


def test_a_reference_shows_the_look_of_its_class_on_some_scene_and_no_object():
    for name, look in biased.LOOK_BY_CLASS.items():
        for seed in range(10):
            reference = biased.reference(name, world.generator("test reference", seed))
            rng = world.generator("test reference", seed)
            scene = world.render(None, str(rng.choice(world.BACKGROUNDS)), look, rng)
            assert reference.tobytes() == scene.image.tobytes()
            assert covered(scene.prop) > 0.01


def test_a_class_that_there_is_not_is_refused():
    for draw in (biased.reference, biased.draw_balanced):
        with pytest.raises(ValueError, match=r"no .* 'dragon'; it has bird, fish"):
            draw("dragon", world.generator("test"))


def test_balanced_drawings_show_the_object_in_view_and_never_its_look():
    rng = world.generator("test balanced", 0)
    shown = [biased.sample_balanced("fish", rng) for _ in range(400)]
    assert all(s.foreground == "fish" and s.layout is None for s in shown)
    assert {s.look for s in shown} == {*biased.ALL_LOOKS, None} - {biased.LOOK_BY_CLASS["fish"]}
    assert biased.draw_balanced("fish", rng, size=32).size == (32, 32)


def test_a_pool_is_what_its_generator_decides():
    one, other, third = (biased.draw_many(20, world.generator("test pool", seed)) for seed in (0, 0, 1))
    assert one[0].shape == (20, 3, world.SIZE, world.SIZE)
    assert (one[0].dtype, one[1].dtype) == (np.uint8, np.int64)
    assert (one[0] == other[0]).all()
    assert (one[1] == other[1]).all()
    assert (one[0] != third[0]).any()
