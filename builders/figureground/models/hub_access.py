"""Whether the Hugging Face Hub can be reached. Needs no torch."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

SECONDS = 3.0
"""Default time limit, including the look-up of the name."""


def why_unreachable(seconds: float = SECONDS) -> str | None:
    """Return why the Hub can't be reached from here; None if it can. Never raises.

    Args:
        seconds: Time limit.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "access is disabled by HF_HUB_OFFLINE"
    said = [f"{constants.ENDPOINT} doesn't answer within {seconds:g} s"]
    # In a thread, because the look-up of a name has no time limit of its own.
    asking = threading.Thread(target=_ask, args=(constants.ENDPOINT, seconds, said), daemon=True)
    asking.start()
    asking.join(seconds)
    return said[-1] or None


def _ask(endpoint: str, seconds: float, said: list[str]) -> None:
    """Append why the Hub can't be reached, or an empty string."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds):
            said.append("")
    except urllib.error.HTTPError:  # it answers
        said.append("")
    except Exception as error:  # whatever a broken network, proxy or setting raises
        said.append(f"{endpoint} can't be reached: {getattr(error, 'reason', error)}")
