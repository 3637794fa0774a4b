"""What is published names no path of this machine."""

import pytest

from figureground.core.local_paths import strip_local_paths


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4"),
        ("/data/ada/x/", "x"),
        ("file:///data/x", "x"),
        ("\\\\host\\share\\x", "x"),
        (["/a/b", 3], ["b", 3]),
        ("timm:local-dir:/data/net", "timm:local-dir:net"),
        ("onnx:~/net.onnx", "onnx:net.onnx"),
        ("timm:resnet18", "timm:resnet18"),
        ("on a road / in a forest", "on a road / in a forest"),
    ],
)
def test_paths_lose_all_but_their_last_part(value, shown):
    assert strip_local_paths(value) == shown
