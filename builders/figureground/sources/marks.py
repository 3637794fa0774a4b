"""The mark of generated images: IPTC's digital source type, in an XMP packet that every image of a build carries.

The packet always has the same length, so the size of a file says nothing about how its image was made.
"""

from __future__ import annotations

import re

from PIL import Image

from figureground.recipe.sample import Spec

NAME = "Iptc4xmpExt:DigitalSourceType"
"""The property, as a recipe names it."""
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""Source type of images drawn from a prompt alone."""
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""Source type of images drawn on a guide, or repainted in part: photographs went into them."""
LENGTH = 512
"""Length of a packet, bytes."""

_BEGIN = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
_END = '<?xpacket end="w"?>'
_BODY = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'{NAME}="%s"/></rdf:RDF></x:xmpmeta>'
)
_SOURCE_TYPE = re.compile(NAME.encode() + rb"\s*(?:=\s*[\"']|>)\s*([^\"'<\s]+)")


def choose_source_type(spec: Spec) -> str:
    """Return the digital source type of an image: `COMPOSITE` for one with a guide, else `GENERATED`."""
    return GENERATED if spec.guide is None else COMPOSITE


def make_packet(source_type: str) -> bytes:
    """Return the XMP packet that states a digital source type, `LENGTH` bytes long."""
    head, tail = (_BEGIN + _BODY % source_type).encode(), _END.encode()
    return head + b" " * (LENGTH - len(head) - len(tail)) + tail


def read_source_type(image: Image.Image) -> str | None:
    """Return the digital source type that an opened image states in its XMP; None if it states none."""
    xmp = image.info.get("xmp")
    match = _SOURCE_TYPE.search(xmp) if isinstance(xmp, bytes) else None
    return match[1].decode("utf-8", "replace") if match else None
