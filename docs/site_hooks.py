"""What ``mkdocs build`` does to a page: formulas become MathML, which browsers draw without a script.

A formula stands between ``$`` and ``$`` in a line, or between ``$$`` and ``$$`` as a paragraph: the forms that source
hosts draw in the Markdown itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])")
_OUTSIDE = re.compile(r"\]\((?:\.\./)+((?:study|results|tests|search_spaces)/[^)]*)\)")
"""Links to files of the repository that are no pages of the site."""


def on_files(files: Files, config: Any) -> Files:
    """The first page of the site is the README."""
    text = (ROOT / "README.md").read_text("utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Convert the formulas of a page, but not what stands in code."""
    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _convert(part) for index, part in enumerate(parts))


def _convert(text: str) -> str:
    text = _OUTSIDE.sub(r"](#)", text)
    text = _DISPLAY.sub(lambda match: f"\n{_mathml(match[1], 'block')}\n", text)
    return _INLINE.sub(
        lambda match: f"<span>{_mathml(match[1], 'inline')}</span>", text
    )  # a span is never taken for a block


def _mathml(formula: str, display: str) -> str:
    return convert(" ".join(formula.split()), display=display)
