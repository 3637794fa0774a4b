"""Class-wise neural PCA: the shares of components in a logit sum to it, less its class mean."""

import pytest
import torch
from tiny_classifiers import make_classifier

from figureground.core.errors import FiguregroundError
from figureground.vision.classifiers import open_classifier
from figureground.vision.neural_pca import fit_components, read_components, weight_features, write_components


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return open_classifier(str(make_classifier(tmp_path_factory.mktemp("it") / "vit", "vit")))


def features_of(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    scales = torch.arange(1, d + 1).float()
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scales + 3


@pytest.mark.parametrize("images", [5, 40], ids=["fewer than features", "more"])
def test_all_shares_sum_to_the_logit_less_its_class_mean(classifier, images):
    generator = torch.Generator().manual_seed(0)
    train, other = (torch.rand(n, 3, 32, 32, generator=generator) for n in (images, 7))
    for k in range(4):
        with torch.no_grad():
            seen, unseen = classifier(train), classifier(other)
        components = fit_components(weight_features(seen.features, classifier.weight[k]), k)
        mean = seen.logits[:, k].mean()
        for reading in (seen, unseen):
            alpha = components.activations(weight_features(reading.features, classifier.weight[k]))
            assert alpha.shape == (len(reading.logits), 16)
            assert torch.allclose(alpha.sum(1), reading.logits[:, k] - mean, atol=1e-5)


def test_components_are_those_of_the_covariance_the_largest_first():
    weighted = features_of(200)
    components = fit_components(weighted, 3)
    assert components.label == 3
    assert torch.allclose(components.vectors @ components.vectors.T, torch.eye(6), atol=1e-5)
    assert (components.values.diff() <= 0).all()
    covariance = torch.cov(weighted.T, correction=0)
    rebuilt = components.vectors.T @ components.values.diag() @ components.vectors
    assert torch.allclose(rebuilt, covariance, atol=1e-3)
    assert components.vectors[0].abs().argmax() == 5


def test_the_leading_ones_are_the_first_of_all_and_signs_raise_the_logit():
    all_of_them, leading = fit_components(features_of(50), 0), fit_components(features_of(50), 0, 2)
    assert torch.equal(leading.vectors, all_of_them.vectors[:2])
    assert torch.equal(leading.values, all_of_them.values[:2])
    assert (all_of_them.vectors.sum(1) >= 0).all()


def test_the_order_of_images_does_not_matter():
    weighted = features_of(30)
    one, other = fit_components(weighted, 0), fit_components(weighted.flip(0), 0)
    assert torch.allclose(one.vectors, other.vectors, atol=1e-5)


def test_activations_have_gradients():
    weighted = features_of(4).requires_grad_()
    fit_components(features_of(30), 0, 3).activations(weighted).square().sum().backward()
    assert (weighted.grad.abs().sum(1) > 0).all()


def test_some_can_be_chosen():
    components = fit_components(features_of(30), 0)
    chosen = components.select([4, 1])
    weighted = features_of(5, seed=1)
    assert torch.allclose(chosen.activations(weighted), components.activations(weighted)[:, [4, 1]], atol=1e-5)
    with pytest.raises(FiguregroundError, match="component 6: there are 6, counted from 0"):
        components.select([6])


@pytest.mark.parametrize(
    ("weighted", "count", "words"),
    [
        (features_of(1), None, "at least 2 images"),
        (features_of(9), 7, "6 features have 1 to 6"),
        (features_of(9), 0, "1 to 6"),
        (torch.ones(9, 6), None, "all equal"),
        (torch.full((9, 6), float("nan")), None, "NaN"),
    ],
)
def test_what_cannot_be_analysed_is_refused(weighted, count, words):
    with pytest.raises(FiguregroundError, match=words):
        fit_components(weighted, 0, count)


def test_the_same_features_give_the_same_components():
    assert torch.equal(fit_components(features_of(20), 0).vectors, fit_components(features_of(20), 0).vectors)


def test_written_components_are_read_back_with_the_same_classifier_only(classifier, tmp_path):
    components = fit_components(features_of(30, 16), 2, 3)
    path = tmp_path / "components.safetensors"
    write_components(components, path, {"classifier": classifier.facts})
    again = read_components(path, classifier)
    assert again.label == 2
    for name in ("mean", "vectors", "values"):
        assert torch.equal(getattr(again, name), getattr(components, name))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    other = open_classifier(str(make_classifier(tmp_path / "other", "resnet")))
    with pytest.raises(FiguregroundError, match="was made with the classifier 'vit'"):
        read_components(path, other)


def test_other_files_are_not_read_as_components(classifier, tmp_path):
    with pytest.raises(FiguregroundError, match="there is no file"):
        read_components(tmp_path / "none.safetensors", classifier)
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    with pytest.raises(FiguregroundError, match=r"cut\.safetensors isn't a file"):
        read_components(tmp_path / "cut.safetensors", classifier)
    folder = make_classifier(tmp_path / "it")
    with pytest.raises(FiguregroundError, match=r"model\.safetensors isn't a file"):
        read_components(folder / "model.safetensors", classifier)
