"""Terms on images in the licences of published checkpoints. No legal advice."""

from __future__ import annotations

import re
from typing import NamedTuple


class Terms(NamedTuple):
    """Terms on outputs."""

    text: str
    """A sentence without its full stop."""
    link: str = ""
    """URL of the licence's text."""


_NONE = "the licence says nothing about images"
_RAIL = "the licensor claims no rights in images, and they may not be used in a way that the licence forbids"
_FLUX = (
    "the licensor claims no ownership of images, and forbids to train, fine-tune or distil a model on them that "
    "competes with FLUX.1; the checkpoint itself may be used for non-commercial purposes only"
)
_STABILITY = (
    "images belong to whoever drew them, may not be used to train a foundational generative model, and are bound by "
    "the licensor's acceptable use policy; a model made from them is a derivative work under the same licence"
)
_FLUX_LINK = "https://github.com/black-forest-labs/flux/blob/main/model_licenses/LICENSE-FLUX1-dev"
_TERMS: dict[str, Terms] = {
    "apache-2.0": Terms(_NONE, "https://www.apache.org/licenses/LICENSE-2.0"),
    "mit": Terms(_NONE, "https://spdx.org/licenses/MIT.html"),
    "openrail": Terms(_RAIL, "https://www.licenses.ai/ai-licenses"),
    "creativeml-openrail-m": Terms(_RAIL, "https://huggingface.co/spaces/CompVis/stable-diffusion-license"),
    "openrail++": Terms(_RAIL, "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md"),
    "flux-1-dev-non-commercial-license": Terms(_FLUX, _FLUX_LINK),
    "stabilityai-ai-community": Terms(_STABILITY, "https://stability.ai/community-license-agreement"),
}
"""By the identifier in a card's `license` or, for `other`, `license_name`; in lower case, with `-` between words."""
_ALIASES = {
    "apache-license-2.0": "apache-2.0",
    "mit-license": "mit",
    "openrail-m": "openrail",
    "openrail++-m": "openrail++",
    "creativeml-openrail++-m": "openrail++",
    "stability-ai-community": "stabilityai-ai-community",
    "stabilityai-community": "stabilityai-ai-community",
    "stability-ai-community-license": "stabilityai-ai-community",
}


def output_terms(license: str, link: str = "") -> Terms:
    """Return what a checkpoint's licence says about outputs, as a dataset's card tells it.

    Args:
        license: Its identifier, or several, separated by commas; empty if none is known.
        link: URL of its text that the checkpoint states, which is preferred.
    """
    if not license:
        return Terms("unknown: no licence was found with the checkpoint")
    preamble = f"the images were drawn with a checkpoint under {license}, whose terms may bind them"
    all_terms = [_find_terms(name) for name in license.split(",")]
    known_terms = [terms for terms in all_terms if terms is not None]
    if len(known_terms) < len(all_terms):
        return Terms(f"{preamble}; what they say about images isn't known here, so read them")
    return Terms(
        f"{preamble}: {'; '.join(dict.fromkeys(terms.text for terms in known_terms))}", link or known_terms[0].link
    )


def _find_terms(name: str) -> Terms | None:
    spelling = re.sub(r"[\s_-]+", "-", name.strip().lower())
    return _TERMS.get(_ALIASES.get(spelling, spelling))
