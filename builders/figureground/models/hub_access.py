"""Whether the Hugging Face Hub can be reached. Needs no torch."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

SECONDS = 3.0
"""Default time limit, including the look-up of the name."""


def find_access_problem(seconds: float = SECONDS) -> str | None:
    """Return why the Hub can't be reached from here; None if it can. Never raises.

    Args:
        seconds: Time limit.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "access is disabled by HF_HUB_OFFLINE"
    reasons = [f"{constants.ENDPOINT} doesn't answer within {seconds:g} s"]
    # In a thread, because the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=_request, args=(constants.ENDPOINT, seconds, reasons), daemon=True)
    thread.start()
    thread.join(seconds)
    return reasons[-1] or None


def _request(endpoint: str, seconds: float, reasons: list[str]) -> None:
    """Append why the Hub can't be reached, or an empty string."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds):
            reasons.append("")
    except urllib.error.HTTPError:  # it answers
        reasons.append("")
    except Exception as error:  # whatever a broken network, proxy or setting raises
        reasons.append(f"{endpoint} can't be reached: {getattr(error, 'reason', error)}")
