"""Draw what a terminal shows as an SVG: python -m tests.support.screenshot writes docs/demo.svg, the demo."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from xml.sax.saxutils import escape, unescape

from tests.support.terminal import Run, Terminal

PROJECT = Path(__file__).resolve().parents[2]
DEMO = PROJECT / "docs/demo.svg"
PATH = "/home/you/cache-models"
"""Stands in the picture for the directory of the project."""
_WIDTH, _HEIGHT, _MARGIN = 8.4, 18, 12
_COLOURS = {"green": "#3fb950", "brown": "#d29922", "red": "#f85149"}  # pyte calls yellow brown


def demo() -> Terminal:
    """The demo in a terminal, to be read to its end."""
    return Terminal(["scripts/demo"], columns=80, folder=PROJECT, environment={})


def svg(terminal: Terminal) -> str:
    """Return the lines of a terminal, each run of characters of one colour as one text of the picture."""
    rows: list[str] = []
    runs = [
        [(start, text.replace(str(PROJECT), PATH), colour, bold) for start, text, colour, bold in line]
        for line in terminal.runs()
    ]
    for line in chain.from_iterable(_broken(one, terminal.columns) for one in runs):
        spans = "".join(
            f'<tspan x="{_MARGIN + start * _WIDTH:.1f}"{_style(colour, bold=bold)}>{escape(text)}</tspan>'
            for start, text, colour, bold in line
        )
        y = _MARGIN + (len(rows) + 1) * _HEIGHT
        rows.append(f'<text y="{y}" xml:space="preserve">{spans}</text>')
    width, height = 2 * _MARGIN + terminal.columns * _WIDTH, 2 * _MARGIN + (len(rows) + 0.5) * _HEIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-size="14"',
            ' font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" fill="#e6edf3">',
            '<rect width="100%" height="100%" rx="8" fill="#0d1117"/>',
            *rows,
            "</svg>\n",
        ]
    )


def lines_of(picture: str) -> list[str]:
    """Return the lines of a picture."""
    return [unescape(re.sub(r"<[^>]*>", "", text)) for text in re.findall(r"<text .*?</text>", picture)]


def _broken(line: list[Run], columns: int) -> Iterator[list[Run]]:
    """Yield a line as a terminal breaks it; only a path is wider, and is one run."""
    if len(line) == 1 and len(line[0][1]) > columns:
        _, text, colour, bold = line[0]
        for start in range(0, len(text), columns):
            yield [(0, text[start : start + columns], colour, bold)]
    else:
        yield line


def _style(colour: str, *, bold: bool) -> str:
    fill = f' fill="{_COLOURS[colour]}"' if colour in _COLOURS else ""
    return f'{fill} font-weight="bold"' if bold else fill


def main() -> int:
    """Write the picture."""
    with demo() as terminal:
        code, _ = terminal.finish()
        DEMO.write_text(svg(terminal), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
