"""The picture-book world draws what it is asked for, and says where."""

import itertools

import numpy as np
import pytest
from PIL import Image

from figureground.pocket import world

LOOKS = [f"{prop}:{look}" for prop in world.PROPS for look in range(world.LOOKS)]
Names = tuple[str | None, str | None, str | None]


def draw(
    foreground: str | None, background: str | None, prop: str | None, seed: int = 0, size: int = 64
) -> world.Scene:
    return world.render(foreground, background, prop, world.generator("test", seed), size)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def some_names(seed: int) -> list[Names]:
    """Every foreground, background, prop and look, each also absent, in random company."""
    rng = np.random.default_rng(seed)
    out: list[Names] = [(None, None, None)]
    for i in range(max(len(world.FOREGROUNDS), len(world.BACKGROUNDS), len(LOOKS))):
        names = [
            group[i % len(group)] if rng.random() < 0.8 else None
            for group in (world.FOREGROUNDS, world.BACKGROUNDS, LOOKS)
        ]
        out.append((names[0], names[1], names[2]))
    return out


def test_the_world_is_as_large_as_it_must_be() -> None:
    assert len(set(world.FOREGROUNDS)) >= 10
    assert world.BACKGROUNDS == (
        "grass", "road", "forest", "water", "sand", "indoors", "snow", "rain", "night", "cave",
    )  # fmt: skip
    assert len(set(world.PROPS)) >= 6
    assert world.LOOKS >= 4


def test_every_foreground_is_of_exactly_one_kind() -> None:
    covered = list(itertools.chain.from_iterable(world.KINDS.values()))
    assert sorted(covered) == sorted(world.FOREGROUNDS)


def test_the_same_generator_draws_the_same_image_and_another_a_different_one() -> None:
    for names in some_names(1):
        first, again, other = draw(*names, seed=3), draw(*names, seed=3), draw(*names, seed=4)
        assert all((pixels(a) == pixels(b)).all() for a, b in zip(first, again, strict=True))
        assert (pixels(first.image) != pixels(other.image)).any()


def test_generators_of_different_purposes_draw_differently() -> None:
    drawn = [world.render("cat", "snow", None, world.generator(purpose, 0)) for purpose in ("train", "held out")]
    assert (pixels(drawn[0].image) != pixels(drawn[1].image)).any()


def test_masks_share_out_every_pixel() -> None:
    for seed, names in enumerate(some_names(2)):
        scene = draw(*names, seed=seed)
        assert scene.image.mode == "RGB"
        total = np.sum([pixels(mask) for mask in scene[1:]], axis=0)
        assert abs(total - 255).max() <= 1, names


def test_what_is_asked_for_is_there_and_nothing_else_is() -> None:
    for seed, (foreground, background, prop) in enumerate(some_names(3)):
        scene = draw(foreground, background, prop, seed)
        shares = [pixels(mask).mean() / 255 for mask in (scene.foreground, scene.prop)]
        for name, share in zip((foreground, prop), shares, strict=True):
            if name is None:
                assert share == 0
            else:
                assert 0.01 < share < 0.5, (name, share)
        assert pixels(scene.background).mean() / 255 > 0.4


def test_masks_follow_what_is_drawn() -> None:
    """Outside the masks, an image is the scene that the same generator draws first."""
    for foreground, prop in (("bird", None), (None, "ball:1"), ("mug", "kite:2")):
        for seed in range(10):
            scene, bare = draw(foreground, "forest", prop, seed), draw(None, "forest", None, seed)
            untouched = pixels(scene.background) == 255
            assert (pixels(scene.image)[untouched] == pixels(bare.image)[untouched]).all()
            covered = pixels(scene.background) == 0
            changed = (pixels(scene.image) != pixels(bare.image)).any(axis=2)
            assert changed[covered].mean() > 0.95


def test_a_foreground_stays_inside_the_image() -> None:
    """At most a sliver of an object is cut off by the edge."""
    for foreground in world.FOREGROUNDS:
        for seed in range(20):
            mask = pixels(draw(foreground, None, None, seed).foreground)
            rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            assert (rim > 127).sum() <= 8, (foreground, seed)


@pytest.mark.parametrize("prop", world.PROPS)
def test_each_look_of_a_prop_differs(prop: str) -> None:
    for a, b in itertools.combinations(range(world.LOOKS), 2):
        for seed in range(5):
            one, two = (draw(None, "grass", f"{prop}:{look}", seed) for look in (a, b))
            either = (pixels(one.prop) > 127) | (pixels(two.prop) > 127)
            distance = np.abs(pixels(one.image) - pixels(two.image)).max(axis=2)
            assert (distance[either] > 60).mean() > 0.25, (prop, a, b, seed)


def test_a_prop_without_a_look_takes_each_of_them() -> None:
    for prop in world.PROPS:
        drawn = {world.render(None, None, prop, world.generator("any look", seed)).prop.tobytes() for seed in range(20)}
        assert len(drawn) == 20
    looks = [world._split_look("flower", world.generator("any look", seed))[1] for seed in range(60)]
    assert set(looks) == set(range(world.LOOKS))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_size_is_the_edge_and_changes_nothing_else(size: int) -> None:
    scene, usual = draw("car", "road", "flag:0", 5, size), draw("car", "road", "flag:0", 5)
    for image, reference in zip(scene, usual, strict=True):
        assert image.size == (size, size)
        same = image.resize((16, 16), Image.Resampling.BOX), reference.resize((16, 16), Image.Resampling.BOX)
        assert np.abs(pixels(same[0]) - pixels(same[1])).mean() < 4


def test_objects_vary_in_size_place_and_color() -> None:
    boxes, colors = [], []
    for seed in range(40):
        scene = draw("fish", "sand", None, seed)
        boxes.append(scene.foreground.getbbox())
        colors.append(pixels(scene.image)[pixels(scene.foreground) == 255].mean(axis=0))
    left, top, right, _ = np.array(boxes).T
    assert np.ptp(right - left) > 10
    assert np.ptp(left) > 20
    assert np.ptp(top) > 10
    assert np.ptp(np.array(colors), axis=0).max() > 60


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dragon", None, None), "no foreground 'dragon'; it has bird, fish"),
        ((None, "moon", None), "no background 'moon'; it has grass, road"),
        ((None, None, "hat"), "no prop 'hat'; it has flower, ball"),
        ((None, None, "flower:9"), "prop 'flower:9': a look is a number from 0 to 3"),
        ((None, None, "flower:red"), "prop 'flower:red'"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(names: Names, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(*names)


@pytest.mark.parametrize("foreground", world.FOREGROUNDS)
def test_a_cutout_is_an_object_alone(foreground: str) -> None:
    for seed in range(10):
        cutout = world.cutout(foreground, world.generator("test", seed), 48)
        assert (cutout.mode, cutout.size) == ("RGBA", (48, 48))
        alpha = pixels(cutout.getchannel("A"))
        assert 0.1 < alpha.mean() / 255 < 0.7
        left, top, right, bottom = cutout.getbbox() or (0, 0, 0, 0)
        assert max(right - left, bottom - top) > 30
    assert cutout.tobytes() == world.cutout(foreground, world.generator("test", 9), 48).tobytes()
    with pytest.raises(ValueError, match="no foreground 'ghost'"):
        world.cutout("ghost", world.generator("test"))


def test_a_layout_says_where_object_and_prop_stand_and_which_hides_the_other() -> None:
    place = world.Place((0.3, 0.6), 0.2)
    apart = world.Layout(place, world.Place((0.75, 0.5), 0.15))
    scene = world.render("mug", "sand", "gift:1", world.generator("test"), layout=apart)
    for mask, center in ((scene.foreground, (0.3, 0.6)), (scene.prop, (0.75, 0.5))):
        left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
        assert abs((left + right) / 128 - center[0]) < 0.06
        assert abs((top + bottom) / 128 - center[1]) < 0.06
    for in_front in (False, True):
        meeting = world.Layout(place, place, in_front)
        scene = world.render("mug", "sand", "gift:1", world.generator("test"), layout=meeting)
        front, behind = (scene.prop, scene.foreground) if in_front else (scene.foreground, scene.prop)
        assert pixels(front).sum() > 2 * pixels(behind).sum()
        assert abs(sum(pixels(mask) for mask in scene[1:]) - 255).max() <= 1
    outside = world.Layout(world.Place((-0.5, 0.5), 0.2), place)
    assert pixels(world.render("mug", "sand", "gift:1", world.generator("test"), layout=outside).foreground).max() == 0
