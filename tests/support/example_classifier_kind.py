"""A kind of classifiers of another package: `brightness:THRESHOLD` tells bright images from dark ones."""

from typing import ClassVar

from figureground.core.errors import FiguregroundError
from figureground.models.classifier_files import ClassifierKind


class BrightnessKind(ClassifierKind):
    KIND: ClassVar[str] = "brightness"
    GIVES_FEATURES: ClassVar[bool] = False

    def identify(self, rest, revision):
        return f"brightness:{float(rest)}"

    def refuse_absent(self, field, rest):
        try:
            float(rest)
        except ValueError:
            raise FiguregroundError(f"{field}: 'brightness:{rest}' has no threshold.") from None

    def open(self, rest, revision):
        import torch

        from figureground.vision.classifiers import Classifier
        from figureground.vision.preprocessing import imagenet_preprocessing

        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.tensor([[-1.0], [1.0]]))

            def forward(self, pixels):
                return (pixels.mean((1, 2, 3), keepdim=False)[:, None] - float(rest)) @ self.weight.T

        preprocessing = imagenet_preprocessing((0.0,) * 3, (1.0,) * 3)
        return Classifier(Network(), preprocessing, ["dark", "bright"], f"brightness:{rest}", {"sha256": rest})
