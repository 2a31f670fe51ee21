# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page: no script, nothing fetched, legible on a phone and on paper.

Whatever is not `Markup` is text and is escaped; only the functions below make `Markup`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from muster.web.drawing import THEME

__all__ = [
    "Markup",
    "cell",
    "details",
    "figure",
    "figures",
    "header",
    "key_numbers",
    "page",
    "paragraph",
    "section",
    "table",
]

_LIGHT = "".join(f"--{name}:{light};" for name, (light, _) in THEME.items())
_DARK = "".join(f"--{name}:{dark};" for name, (_, dark) in THEME.items())

_CSS = f"""
:root {{ {_LIGHT} --back:#f4f6f8; --sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
Arial,sans-serif; color-scheme:light dark }}
@media screen and (prefers-color-scheme:dark) {{ :root {{ {_DARK} --back:#0f1418 }} }}
* {{ box-sizing:border-box }}
html {{ -webkit-text-size-adjust:100% }}
body {{ margin:0; background:var(--back); color:var(--ink); font:16px/1.55 var(--sans) }}
main {{ max-width:70rem; margin:0 auto; padding:2.5rem 1.25rem 4rem }}
header p {{ color:var(--soft); margin:0 }}
h1 {{ font-size:1.9rem; line-height:1.2; margin:.2rem 0 .6rem; overflow-wrap:anywhere }}
h2 {{ font-size:1.2rem; margin:2.6rem 0 .6rem }}
p {{ max-width:46rem; margin:.5rem 0 }}
.lead {{ font-size:1.12rem }}
.numbers {{ display:grid; grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr)); gap:.75rem;
margin:1.4rem 0 }}
.numbers div {{ background:var(--paper); border:1px solid var(--rule); border-radius:.6rem;
padding:.7rem .9rem }}
dt {{ color:var(--soft); font-size:.85rem }}
dd {{ margin:0; font-size:1.35rem; font-weight:600; font-variant-numeric:tabular-nums;
overflow-wrap:anywhere }}
.figures {{ display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));
gap:1rem; align-items:start }}
figure {{ margin:0; background:var(--paper); border:1px solid var(--rule); border-radius:.6rem;
padding:.9rem .9rem .7rem; break-inside:avoid }}
.figures figure:only-child {{ max-width:34.5rem }}
.figures .scroll {{ margin:0 }}
figure svg {{ display:block; width:100%; height:auto; overflow:visible }}
figcaption {{ color:var(--soft); font-size:.9rem; margin-top:.5rem; overflow-wrap:anywhere }}
.scroll {{ overflow-x:auto; background:var(--paper); border:1px solid var(--rule);
border-radius:.6rem; margin:.8rem 0 }}
table {{ border-collapse:collapse; width:100%; font-size:.93rem }}
caption {{ text-align:left; color:var(--soft); padding:.7rem .9rem .2rem; font-size:.9rem }}
th,td {{ text-align:left; padding:.42rem .9rem; border-top:1px solid var(--rule);
vertical-align:top; overflow-wrap:break-word; max-width:24rem }}
thead th {{ border-top:0; color:var(--soft); font-weight:500; vertical-align:bottom }}
tbody th {{ font-weight:600; min-width:8rem }}
thead .n {{ white-space:normal }}
.n {{ text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap }}
.fields th {{ font-weight:400; width:40%; color:var(--soft) }}
.fields td {{ font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; font-size:.88rem }}
summary {{ cursor:pointer; padding:.3rem 0; color:var(--c0) }}
footer {{ margin-top:3rem; color:var(--soft); font-size:.85rem }}
@media (max-width:40rem) {{ main {{ padding:1.25rem .8rem 3rem }} h1 {{ font-size:1.5rem }}
figure {{ padding:.5rem }} th,td {{ padding:.4rem .6rem }} }}
@media print {{ body {{ background:none; font-size:10.5pt }} main {{ max-width:none; padding:0 }}
.scroll {{ overflow:visible }} h2 {{ break-after:avoid }} tr {{ break-inside:avoid }}
.figures {{ grid-template-columns:1fr 1fr }} }}
"""


class Markup(str):
    """Text that is HTML already."""


def cell(part: object) -> Markup:
    """Return HTML as it is, anything else escaped.

    >>> cell("<b>")
    '&lt;b&gt;'
    """
    return part if isinstance(part, Markup) else Markup(escape(str(part)))


def page(title: str, parts: Iterable[Markup]) -> str:
    """Return the whole document."""
    body = "\n".join(cell(part) for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{cell(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n<footer>Written by muster from the run's own record.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def header(title: str, above: str, below: str) -> Markup:
    """Return the top: what this page is about, and its main sentence."""
    return Markup(
        f"<header><p>{cell(above)}</p><h1>{cell(title)}</h1>"
        f'<p class="lead" style="color:var(--ink)">{cell(below)}</p></header>'
    )


def section(title: str, *parts: str) -> Markup:
    """Return a heading and what stands under it; plain text becomes a paragraph."""
    inner = "\n".join(p if isinstance(p, Markup) else paragraph(p) for p in parts if p)
    name = "".join(c if c.isalnum() else "-" for c in title.lower())
    top = f'<h2 id="{name}">{cell(title)}</h2>'
    return Markup(f'<section aria-labelledby="{name}">\n{top}\n{inner}\n</section>')


def paragraph(text: str) -> Markup:
    """Return a paragraph."""
    return Markup(f"<p>{cell(text)}</p>")


def key_numbers(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Return a few numbers in large type."""
    inner = "".join(f"<div><dt>{cell(k)}</dt><dd>{cell(v)}</dd></div>" for k, v in pairs)
    return Markup(f'<dl class="numbers">{inner}</dl>')


def figure(svg: str, caption: str = "") -> Markup:
    """Return a picture made by `muster.web.plots`, with a sentence under it."""
    under = f"<figcaption>{cell(caption)}</figcaption>" if caption else ""
    return Markup(f"<figure>{svg}{under}</figure>")


def figures(*drawn: Markup, instead: str = "") -> Markup:
    """Return pictures side by side where there is room; a sentence where there are none."""
    return Markup(f'<div class="figures">{"".join(drawn)}</div>') if drawn else paragraph(instead)


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", *, words: int = 1
) -> Markup:
    """Return a table whose first column names the row; after `words` columns come numbers."""

    def line(parts: Sequence[object], tag: str, scope: str) -> str:
        cells = ""
        for place, part in enumerate(parts):
            name = tag if place or tag == "th" else "th"
            kind = ' class="n"' if place >= words else ""
            of = scope if name == "th" and (tag == "th" or not place) else ""
            cells += f"<{name}{of}{kind}>{cell(part)}</{name}>"
        return f"<tr>{cells}</tr>"

    title = f"<caption>{cell(caption)}</caption>" if caption else ""
    top = line(head, "th", ' scope="col"')
    body = "\n".join(line(parts, "td", ' scope="row"') for parts in rows)
    kind = ' class="fields"' if words >= len(head) == 2 else ""
    inner = f"{title}<thead>{top}</thead><tbody>\n{body}\n</tbody>"
    return Markup(f'<div class="scroll" tabindex="0"><table{kind}>{inner}</table></div>')


def details(summary: str, inner: Markup) -> Markup:
    """Return something long, folded away."""
    return Markup(f"<details><summary>{cell(summary)}</summary>{inner}</details>")
