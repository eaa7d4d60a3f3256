"""What ``mkdocs build`` does to a page.

Formulas become MathML, which browsers draw without a script. A notebook becomes a page with its stored outputs. A
formula stands between ``$`` and ``$`` in a line, or between ``$$`` and ``$$`` as a paragraph: the forms that source
hosts draw in the Markdown itself.
"""

from __future__ import annotations

import json
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
_NOTEBOOK = re.compile(r"\]\((notebooks/\w+)\.ipynb\)")
"""Links from pages to notebooks: the site has a page of each."""


def on_files(files: Files, config: Any) -> Files:
    """The first page of the site is the README. Each notebook is a page too."""
    text = (ROOT / "README.md").read_text("utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = notebook_page(json.loads(path.read_text("utf-8")), path.name)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    return files


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as a page in Markdown: texts, code, and the outputs that the notebook holds.

    Args:
        notebook: the content of the file.
        name: of the file, which lies beside the page.
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_output(output) for output in cell["outputs"]]
    return "\n\n".join([*parts, f"The notebook as a file: [{name}]({name})."]) + "\n"


def _output(output: dict[str, Any]) -> str:
    """An output of a cell: a picture, else HTML, else text."""
    shown = output.get("data", {})
    if "image/png" in shown:
        return f'<img alt="output of the cell above" src="data:image/png;base64,{"".join(shown["image/png"]).strip()}">'
    if "text/html" in shown:
        lines = "".join(shown["text/html"]).splitlines()
        # A blank line would end the block.
        return "\n".join(["<div>", *(line for line in lines if line.strip()), "</div>"])
    text = "".join(output.get("text", shown.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Convert the formulas of a page, but not what stands in code."""
    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _convert(part) for index, part in enumerate(parts))


def _convert(text: str) -> str:
    text = _NOTEBOOK.sub(r"](\1.md)", _OUTSIDE.sub(r"](#)", text))
    text = _DISPLAY.sub(lambda match: f"\n{_mathml(match[1], 'block')}\n", text)
    return _INLINE.sub(
        lambda match: f"<span>{_mathml(match[1], 'inline')}</span>", text
    )  # a span is never taken for a block


def _mathml(formula: str, display: str) -> str:
    return convert(" ".join(formula.split()), display=display)
