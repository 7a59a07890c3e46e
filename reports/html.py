"""What all HTML pages share: templates that escape, pictures and words inside the page."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

if TYPE_CHECKING:
    from reports.plots import Picture

LARGEST_SVG = 300_000
"""Bytes of SVG above which a page carries the PNG."""


def environment() -> Environment:
    """The templates; everything that is put into them is escaped."""
    return Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def raw(*names: str) -> Markup:
    """The text of style sheets or scripts among the templates, one after the other, as it is."""
    loader = environment().loader
    assert loader is not None
    return Markup("".join(loader.get_source(environment(), name)[0] for name in names))


def embedded(picture: Picture) -> dict[str, str]:
    """A picture for a template: name, title, caption, and its bytes as an address."""
    small = len(picture.svg) <= LARGEST_SVG
    kind, data = ("svg+xml", picture.svg) if small else ("png", picture.png)
    return {
        "name": picture.name,
        "title": picture.title,
        "caption": picture.caption,
        "source": f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}",
    }


def from_markdown(text: str) -> Markup:
    """Markdown as HTML. HTML within it is shown as it stands; pictures become links."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return Markup(parser.render(text))
