"""Tiny random classifiers of many families, saved as transformers directories."""

from pathlib import Path

import torch
import transformers as t

LABELS = {0: "hen", 1: "hummingbird", 2: "great white shark, white shark, man-eater", 3: "crane"}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PATCHED = {**VISION, "image_size": 32, "patch_size": 8}
STAGED = {"depths": [1, 1], "hidden_sizes": [8, 16]}
FAMILIES = {
    "resnet": lambda: t.ResNetConfig(embedding_size=8, layer_type="basic", **STAGED),
    "regnet": lambda: t.RegNetConfig(embedding_size=8, groups_width=8, **STAGED),
    "mobilenet_v2": lambda: t.MobileNetV2Config(depth_multiplier=0.25, image_size=32),
    "vit": lambda: t.ViTConfig(**PATCHED),
    "deit": lambda: t.DeiTConfig(architectures=["DeiTForImageClassification"], **PATCHED),
    "deit with teacher": lambda: t.DeiTConfig(architectures=["DeiTForImageClassificationWithTeacher"], **PATCHED),
    "beit": lambda: t.BeitConfig(**PATCHED),
    "dinov2": lambda: t.Dinov2Config(**PATCHED),
    "convnext": lambda: t.ConvNextConfig(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2),
    "convnextv2": lambda: t.ConvNextV2Config(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2),
    "swin": lambda: t.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "poolformer": lambda: t.PoolFormerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16]),
}


def make_classifier(
    out: Path, family: str = "resnet", processor: object = None, labels: dict | None = None, seed: int = 0
) -> Path:
    """Write a classifier of 4 classes, with random weights and batch statistics, for images of 32 pixels."""
    torch.manual_seed(seed)
    config = FAMILIES[family]()
    config.id2label = LABELS if labels is None else labels
    config.label2id = {name: i for i, name in config.id2label.items()}
    network = t.AutoModelForImageClassification.from_config(config)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.3, 0.6)
    network.save_pretrained(out)
    processor = processor or t.ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(out)
    return out


def refuse_more_than(classifier, most: int, error: BaseException) -> None:
    """Make a classifier's network raise an error if it gets more than so many images at once."""

    def before(network, given):
        if len(given[0]) > most:
            raise error

    classifier.network.register_forward_pre_hook(before)


def fit_components_of(classifier, label: int, directory: Path, count: int | None = None):
    """Return the neural principal components of a class, from a directory of its images."""
    from figureground.vision.components import read_class_images
    from figureground.vision.neural_pca import fit_components, weight_features

    images = read_class_images(classifier, directory)
    return fit_components(weight_features(images.reading.features, classifier.weight[label].cpu()), label, count)
