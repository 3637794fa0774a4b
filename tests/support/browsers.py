"""Headless Chromium for tests of pages; without it, or without playwright, they are skipped and say so."""

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONTRAST = """
() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((x) => { x /= 255; return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, alpha = 1] = numbers(getComputedStyle(each).backgroundColor);
      layers.push([[r, g, b], alpha]);
      if (alpha === 1) break;
    }
    const mix = (under, [rgb, alpha]) => under.map((x, i) => x * (1 - alpha) + rgb[i] * alpha);
    return layers.reverse().reduce(mix, [255, 255, 255]);
  };
  const found = {};
  for (const element of document.querySelectorAll("body *:not(option, script, style)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!own || !element.checkVisibility() || element.disabled) continue;
    const colours = [numbers(getComputedStyle(element).color).slice(0, 3), behind(element)];
    const [light, dark] = colours.map(luminance).sort((a, b) => b - a);
    found[`${element.tagName}.${element.className}: ${element.textContent}`] = (light + 0.05) / (dark + 0.05);
  }
  return found;
}
"""
"""WCAG 2.2: the contrast ratio of each visible text."""


@pytest.fixture(scope="module")
def chromium():
    """The browser; a test opens contexts of its own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright isn't installed (the extra `dev` has it)"
    )
    if CHROMIUM is None:
        pytest.skip("Chromium isn't installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()
