"""The page: one HTML file from content. Every text is escaped, and no script runs but those of this program."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from study.report.blocks import Command, Figure, FirstScreen, ReportContent, Section, StudyContent, Table
from study.report.bundle import vega_bundle
from study.report.wording import GLOSSARY, POLICIES, number_text
from study.storage.strict_json import dumps

_SCRIPTS = ("theme.js", "tables.js", "charts.js", "point_table.js", "point_panel.js", "points.js", "main.js")


def report_page(content: ReportContent, *, version: str | None = None) -> bytes:
    """The page as a file, in UTF-8.

    ``version``: of the content of a live page, which asks its server for newer content; None for a page that asks
    nobody.
    """
    live = version is not None
    own = (*_SCRIPTS, "watch.js") if live else _SCRIPTS
    scripts = [vega_bundle(), "\n".join(map(_asset, own))]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    policy += "; connect-src 'self'" if live else ""
    several = len(content.studies) > 1
    data = _inert(_data(content))
    body = [
        _header(content),
        _LIVE if live else "",
        '<main id="main">',
        _section(content.together, "together") if content.together else "",
        *(_study(study, place, hidden=several and place > 0) for place, study in enumerate(content.studies)),
    ]
    parts = [
        "<!doctype html>",
        f'<html lang="en" data-version="{escape(version or "")}"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(content.title)}</title>",
        '<link rel="icon" href="data:,">',
        f"<style>{_asset('page.css')}</style></head><body>",
        '<a class="skip" href="#main">Skip to the content</a>',
        *body,
        _words("".join([*body, data])),
        "</main>",
        f"<footer>{escape(content.made)}. {_LIVE_END if live else 'This file needs no network and sends nothing.'}"
        "</footer>",
        f'<script type="application/json" id="report-data">{data}</script>',
        *(f"<script>{script}</script>" for script in scripts),
        "</body></html>",
    ]
    return "\n".join(parts).encode()


_LIVE = (
    '<section class="live" aria-label="State of the study"><p class="now" role="status"></p>'
    '<progress max="1" hidden aria-label="Share of this stage that is done"></progress><dl></dl>'
    '<p class="coming" hidden></p><div class="troubles"></div></section>'
    '<button type="button" class="fresh" hidden>New rows: show them</button>'
)
"""What the script of a live page fills."""
_LIVE_END = "This page asks predictive-exit watch for newer rows every two seconds, and asks no other host."


def _asset(name: str) -> str:
    return files("study.report").joinpath("assets", name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _words(page: str) -> str:
    """What the words of the page mean: a hint that needs a mouse reaches neither phones nor keyboards."""
    used = set(re.findall(r"[a-z0-9_%]+", page.lower()))
    meanings = {word: meaning for word, meaning in {**GLOSSARY, **POLICIES}.items() if _is_used(word, used)}
    shown = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in meanings.items())
    return f'<details class="words" id="words"><summary>Words of this page</summary><dl>{shown}</dl></details>'


def _is_used(word: str, used: set[str]) -> bool:
    """Whether all parts of a word are among the words of a page, in the singular or the plural."""
    return all(part in used or f"{part}s" in used for part in re.findall(r"[a-z0-9_%]+", word.lower()))


def _inert(values: object) -> str:
    """JSON inside an HTML page: no text in it can end the element or begin another one."""
    text = dumps(values, compact=True)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _data(content: ReportContent) -> dict[str, Any]:
    """What the scripts need: points, charts and commands of each study."""
    studies = []
    for study in content.studies:
        figures = {figure.name: figure.spec for section in study.sections for figure in section.figures}
        lacks = {"lacks_weights": study.lacks_weights}
        studies.append({"evaluate": study.evaluate, **lacks, "points": study.points, "figures": figures})
    together = content.together.figures if content.together else ()
    return {"studies": studies, "together": {figure.name: figure.spec for figure in together}}


def _header(content: ReportContent) -> str:
    tabs = ""
    if len(content.studies) > 1:
        shown = [
            f'<button type="button" role="tab" id="tab-{place}" aria-controls="study-{place}" '
            f'aria-selected="{"true" if place == 0 else "false"}" tabindex="{0 if place == 0 else -1}">'
            f"{escape(_label(study, content.studies))}</button>"
            for place, study in enumerate(content.studies)
        ]
        tabs = f'<div class="tabs" role="tablist" aria-label="Study">{"".join(shown)}</div>'
    return (
        f'<header><div class="bar"><h1>{escape(content.title)}</h1>'
        '<button type="button" class="theme" aria-pressed="false">Dark</button></div>'
        f"{tabs}</header>"
    )


def _label(study: StudyContent, studies: Sequence[StudyContent]) -> str:
    same = [one for one in studies if one.name == study.name]
    if len(same) < 2:
        return study.name
    same_data = [one for one in same if one.data == study.data]
    return f"{study.name}, {study.data}" if len(same_data) < 2 else f"{study.name}, {study.folder}"


def _study(study: StudyContent, place: int, *, hidden: bool) -> str:
    prefix = f"s{place}"
    links = "".join(
        f'<li><a href="#{prefix}-{section.name}">{escape(section.title)}</a></li>' for section in study.sections
    )
    links += '<li><a href="#words">Words of this page</a></li>'
    parts = [
        f'<article class="study" id="study-{place}" data-study="{place}" {"hidden" if hidden else ""}>',
        f'<p class="lead">Data set {escape(study.data)}: {escape(study.state)}</p>',
        *(f'<p class="missing" role="note">{escape(line)}</p>' for line in study.missing),
        "" if study.first is None else _first(study.first, prefix),
        f'<nav class="contents" aria-label="Sections"><ul>{links}</ul></nav>',
    ]
    for section in study.sections:
        extra = ""
        if section.name == "front" and study.points is not None:
            extra = _explorer(prefix, study.points.get("limits", ()))
        elif section.name == "gallery":
            extra = _gallery(study)
        parts.append(_section(section, prefix, extra))
    return "\n".join([*parts, "</article>"])


def _first(first: FirstScreen, prefix: str) -> str:
    facts = "".join(
        f"<div><dt>{_explained(name)}</dt><dd><b>{escape(value)}</b><span>{escape(more)}</span></dd></div>"
        for name, value, more in first.facts
    )
    named = [f'<span class="pair">{escape(name)} <b>{escape(value)}</b></span>' for name, value in first.setting]
    setting = [escape(first.policy), " ".join(named)]
    setting.append(f'<span class="soft">{escape(first.network)}</span>')
    badge = "certified" if first.certified else "not certified"
    kind = "good" if first.certified else "open"
    return (
        f'<section class="first" aria-labelledby="{prefix}-take">'
        f'<p class="over">Recommended setting</p><h2 id="{prefix}-take">Take point {first.number}'
        f' <span class="badge {kind}" title="{escape(GLOSSARY["certified"])}">{badge}</span></h2>'
        f'<p class="setting">{"<br>".join(filter(None, setting))}</p>'
        f'<dl class="facts">{facts}</dl>'
        f'<p class="certainty"><b>Why this one:</b> {escape(first.why)}</p>'
        f'<p class="certainty"><b>How sure:</b> {escape(first.certainty)}</p>'
        f'<div class="commands">{"".join(map(_command, first.commands))}</div>'
        f"{_table(first.beside)}"
        + "".join(f'<p class="note">{escape(line)}</p>' for line in first.notes)
        + "</section>"
    )


def _command(command: Command) -> str:
    return (
        f'<div class="command"><span class="does">{escape(command.does)}</span>'
        f"<code>{escape(command.text)}</code>"
        '<button type="button" class="copy">Copy</button></div>'
    )


def _section(section: Section, prefix: str, extra: str = "") -> str:
    parts = [f'<section id="{prefix}-{section.name}" class="part"><h2>{escape(section.title)}</h2>']
    if section.see:
        parts.append(f'<p class="see">{escape(section.see)}</p>')
    if section.name == "front" and extra:
        parts.append(extra)
        parts.append(_lacks(section.lacks))
        return "\n".join([*parts, "</section>"])
    if section.name == "together" and section.figures:
        parts.append(
            '<div class="controls"><label><input type="checkbox" class="everything"> Show all points</label></div>'
        )
    if section.figures:
        wide = " one" if len(section.figures) == 1 else ""
        parts.append(f'<div class="figures{wide}">{"".join(_figure(one, prefix) for one in section.figures)}</div>')
    folded = section.name == "provenance" or (section.figures and section.name != "together")
    parts += [extra, *map(_folded if folded else _table, section.tables)]
    return "\n".join([*parts, _lacks(section.lacks), "</section>"])


def _lacks(lines: Iterable[str]) -> str:
    return "".join(f'<p class="lack">{escape(line)}</p>' for line in lines)


def _figure(figure: Figure, prefix: str) -> str:
    table = _linked_table(figure) if figure.linked else "" if figure.table is None else _folded(figure.table)
    return (
        f'<figure data-figure="{escape(figure.name)}"><figcaption id="{prefix}-{figure.name}-title">'
        f"{escape(figure.title)}</figcaption>"
        f'<div class="chart" role="img" aria-labelledby="{prefix}-{figure.name}-title"></div>{table}</figure>'
    )


def _linked_table(figure: Figure) -> str:
    """The table beside a chart that the page fills with operating points; the page fills the table too."""
    title = escape(figure.title)
    return (
        f'<details class="beside" data-table="{escape(figure.name)}"><summary>Table: {title}</summary>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table><caption>{title}</caption>'
        '<thead></thead><tbody></tbody></table></div><p class="note"></p></details>'
    )


def _folded(table: Table) -> str:
    return f'<details class="beside"><summary>Table: {escape(table.title)}</summary>{_table(table)}</details>'


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col" aria-sort="none" class="{"text" if column.kind == "text" else "num"}">'
        f'<button type="button">{_hinted(column.heading, column.help)}</button></th>'
        for column in table.columns
    )
    rows = []
    for row in table.rows:
        cells = []
        for column, value in zip(table.columns, row, strict=True):
            text = escape(number_text(value, column.kind, column.unit))
            kind = "" if column.kind == "text" else ' class="num"'
            sort = "" if column.kind == "text" or value is None else f' data-value="{float(value)!r}"'
            cells.append(f"<td{kind}{sort}>{text or '<span class=none>–</span>'}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table class="sortable"><caption>{escape(table.title)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _hinted(text: str, help: str) -> str:
    return f'<abbr title="{escape(help)}">{escape(text)}</abbr>' if help else escape(text)


def _explained(text: str) -> str:
    """A name with the glossary's explanation, where the glossary has its first words."""
    known = next((name for name in GLOSSARY if text.startswith(name)), None)
    return _hinted(text, GLOSSARY[known]) if known else escape(text)


def _gallery(study: StudyContent) -> str:
    shown = "".join(
        f'<figure><img alt="{escape(one.caption)}" src="data:image/png;base64,{base64.b64encode(one.png).decode()}">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in study.pictures
    )
    return f'<div class="gallery">{shown}</div>'


def _explorer(prefix: str, limits: Sequence[str]) -> str:
    """The front chart with its controls, the fixed point beside it, and the table of points below.

    ``limits``: the constraints of the study in words.
    """
    shade = "Shade what breaks a constraint" if limits else "Shade a loss of more than 1 point"
    said = ""
    if limits:
        asked = f"The study asks for: {'; '.join(limits)}. While shaded, points that break a constraint are pale."
        said = f'<p class="note asks">{escape(asked)}</p>'
    return (
        '<div class="controls"><fieldset class="costs"><legend>Cost</legend></fieldset>'
        f'<label><input type="checkbox" class="limits" checked> {shade}</label>'
        '<label><input type="checkbox" class="everything"> Show all points</label>'
        '<label>Filter <input type="search" class="words-filter" placeholder="policy, network, point" '
        'title="Words of a point: its policy, setting, network, state or number; all words must be there"></label>'
        '<button type="button" class="clear" disabled>Clear</button>'
        '<span class="count" role="status" aria-live="polite"></span></div>'
        f"{said}"
        '<div class="explorer"><figure data-figure="front"><figcaption class="hint">Drag over points to filter all '
        "plots and tables. Click a point to fix it; arrow keys step along the front; Escape clears.</figcaption>"
        f'<div class="chart" tabindex="0" role="application" aria-label="Accuracy against cost. Arrow keys fix the '
        f'next point of the front; the table below has all points." aria-describedby="{prefix}-fixed"></div></figure>'
        f'<aside class="fixed" id="{prefix}-fixed" aria-live="polite"></aside></div>'
        '<div class="scroll points" role="region" aria-label="Operating points"><table><caption>Operating points'
        '</caption><thead></thead><tbody></tbody></table></div><button type="button" class="more" hidden>Show more '
        "rows</button>"
    )
