"""What every page must pass: not too wide, no faint text, no control without a name; and axe."""

from functools import cache
from importlib.resources import files
from typing import Any

WIDER = """() => [...document.querySelectorAll("body *")]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .filter((e) => !e.closest(".fold, .pages, .table-wrap, pre, [hidden], .tip"))
    .map((e) => e.tagName + "." + e.className)"""

# Text under 4.5 : 1 against what is behind it, by WCAG's formula; a canvas turns colours into sRGB.
FAINT = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r / 255, g / 255, b / 255, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const behind = (e) => {
    const own = rgba(getComputedStyle(e).backgroundColor);
    const under = e.parentElement ? behind(e.parentElement) : [1, 1, 1];
    return own[3] === 1 ? own.slice(0, 3) : over(own, under);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const nodes = [...e.childNodes].filter((node) => node.nodeType === 3);
    const text = nodes.map((node) => node.data).join("").trim();
    if (!text || !e.checkVisibility() || e.closest(".sr, .ws, option, noscript, script")) continue;
    const inSvg = e.namespaceURI.endsWith("svg");
    const ink = rgba(getComputedStyle(e)[inSvg ? "fill" : "color"]);
    const paper = behind(inSvg ? e.closest("div") : e);
    const found = ratio(light(over(ink, paper)), light(paper)).toFixed(2);
    if (found < 4.5) faint.push([e.tagName, e.getAttribute("class"), text, found].join(" "));
  }
  return faint;
}"""

NAMELESS = """() => [...document.querySelectorAll("a, button, input, select, textarea")]
    .filter((e) => e.checkVisibility())
    .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length || e.title))
    .map((e) => e.outerHTML.slice(0, 80))"""


# axe's findings that bar someone from a page, by the rules of WCAG 2.2 AA and good practice.
# Without `preload`, it would ask for style sheets again, which a page on the disk may not.
SERIOUS = """async () => (
    await axe.run(document, { resultTypes: ["violations"], preload: false })).violations
    .filter((found) => ["serious", "critical"].includes(found.impact))
    .map((found) => [found.id, found.help, ...found.nodes.slice(0, 3).map((node) => node.html)])"""


@cache
def axe() -> str:
    """The script of axe-core, as a Python package carries it."""
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def check(page: Any) -> None:
    """Fail for a page that is too wide, too faint, or bars someone by axe's rules."""
    page.wait_for_load_state("networkidle")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"], page.evaluate(WIDER)
    for fault in (WIDER, FAINT, NAMELESS):
        found = page.evaluate(fault)
        assert found == [], found
    page.evaluate(axe())
    found = page.evaluate(SERIOUS)
    assert found == [], found


def focus_is_visible(page: Any) -> bool:
    """Say whether the element that has the focus shows it."""
    return bool(
        page.evaluate(
            """() => {
              const style = getComputedStyle(document.activeElement);
              const point = document.activeElement.querySelector("path");
              const stroke = point ? parseFloat(getComputedStyle(point).strokeWidth) : 0;
              return style.outlineStyle !== "none" || stroke > 2;
            }"""
        )
    )
