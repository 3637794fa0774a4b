"""`--scorer` names a kind, a model, and a name in the scores file."""

import pytest

from figureground.core.errors import UsageError
from figureground.verification.requests import parse_scorers


def names(*texts):
    return [(each.name, each.kind, each.id) for each in parse_scorers(texts)]


def test_a_name_is_made_of_the_kind_and_the_last_part_of_the_id():
    assert names("pocket", "clip:openai/clip-vit-base-patch32", "classifier:timm:resnet50.a1", "classifier:pocket") == [
        ("pocket", "pocket", ""),
        ("clip_clip_vit_base_patch32", "clip", "openai/clip-vit-base-patch32"),
        ("classifier_resnet50_a1", "classifier", "timm:resnet50.a1"),
        ("classifier_pocket", "classifier", "pocket"),
    ]


def test_a_name_can_be_given():
    assert names("mine=clip:/models/a=b/") == [("mine", "clip", "/models/a=b/")]


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["clipp:a/b"], "'clipp'.*did you mean 'clip'"),
        (["clip"], "clip:ID"),
        (["vlm:"], "vlm:ID"),
        (["no name=pocket"], "'no name'"),
        (["quality=pocket"], "'quality'"),
        (["clip:a/tiny", "clip:b/tiny"], "'clip_tiny'.*other=clip:b/tiny"),
        ([""], "unknown scorer ''"),
    ],
)
def test_what_cannot_be_read_is_named(texts, named):
    with pytest.raises(UsageError, match=named):
        parse_scorers(texts)
