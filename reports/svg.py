"""Matplotlib figures to inline SVG that follows the page: its colours, its font, its anchors."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE, BAND = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES = tuple(f"#0101{value:x}" for value in range(0x10, 0x18))
"""Colours that no theme uses: each is replaced by a CSS variable, so that light and dark need one figure."""

_VARIABLES = {
    **dict(zip((INK, MUTED, GRID, SURFACE, BAND), ("ink", "muted", "grid", "surface", "band"), strict=True)),
    **{colour: f"series-{index}" for index, colour in enumerate(SERIES)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "magic141",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def style() -> AbstractContextManager[None]:
    """The context in which figures are drawn and saved."""
    return rc_context(_STYLE)


def render(figure: Figure, name: str, alt: str, hovers: dict[str, str] | None = None) -> str:
    """`figure` as one `<svg>` element with `alt` as its text alternative.

    `name` keeps ids apart from other figures of the page. `hovers` maps the gid of an artist to its tooltip.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for gid, hover in (hovers or {}).items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(hover)}</title>')
    links = re.findall(r'<a [^>]*href="(#cell-[^"]*)"', svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for target in set(links):
        svg = svg.replace(f'href="#{name}-{target[1:]}"', f'href="{target}"')
    svg = re.sub(r"#0101[0-9a-f]{2}\b", _themed, svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    svg = svg.replace("<a ", '<a tabindex="-1" ')
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def _themed(match: re.Match[str]) -> str:
    colour = match[0]
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour
