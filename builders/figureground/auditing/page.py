"""HTML page of an audit: findings with the images that show them, then tables of all that was measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from figureground.auditing.result import Audit
from figureground.auditing.summary import list_notes
from figureground.core.data_urls import encode_thumbnail, is_small
from figureground.core.pages import render_page
from figureground.evaluation.summary import format_percent, format_share

MAX_FINDINGS = 40
"""Maximum number of findings shown with images."""
MAX_ROWS = 40
"""Maximum number of rows of a table."""
THUMBNAIL = 160
"""Maximum edge of an image in pixels."""


def write_page(audit: Audit) -> str:
    """Return a self-contained HTML page."""
    findings = audit.findings[:MAX_FINDINGS]
    images = _draw_thumbnails(audit, {key for finding in findings for key in (*finding.keys, *finding.beside)})
    return render_page(
        "audit.html.jinja",
        {"percent": format_percent, "spread": format_share},
        report=audit.report,
        findings=[
            {"finding": finding, "images": [images[key] for key in finding.keys],
             "beside": [images[key] for key in finding.beside]}
            for finding in findings
        ],
        hidden=len(audit.findings) - len(findings),
        most=MAX_ROWS,
        notes=list_notes(audit.report),
    )  # fmt: skip


def _draw_thumbnails(audit: Audit, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    samples = audit.samples
    row_of = {key: row for row, key in enumerate(samples.keys)}
    thumbnails = {}
    for row, image, _ in samples.decode([row_of[key] for key in keys if key in row_of]):
        thumbnails[samples.keys[row]] = {
            "key": samples.keys[row],
            "url": encode_thumbnail(image, THUMBNAIL),
            "small": is_small(image),
            "shows": f"{samples.foregrounds[samples.foreground[row]]} on "
            f"{samples.backgrounds[samples.background[row]]}",
        }
    return thumbnails
