"""Draw the scale plot: `plot.py FIGURES.json PLOT.svg`. Only this script needs matplotlib, in its own environment."""

import json
import sys
from pathlib import Path
from typing import Any

_PANELS = {
    "later start": ("later start, ten files a model", "models", "s"),
    "models": ("first start, 123 kB a model", "models", "s"),
    "bytes": ("first start, one model", "MB", "s"),
}
_COLOURS = {"cache-models": "#0b6e4f", "curl": "#888888", "hub, same files": "#c8553d", "python -c pass": "#888888"}


def main() -> None:
    """Draw the points of the scenario `scale`."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cache-models", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    points = next(one["points"] for one in found["scenarios"] if one["points"])
    figure, panels = pyplot.subplots(1, len(_PANELS), figsize=(10, 3.4), layout="constrained")
    for panel, (part, words) in zip(panels, _PANELS.items(), strict=True):
        _draw(panel, points[part], *words)
    figure.suptitle(found["machine"], fontsize=8, color="#555555")
    figure.savefig(sys.argv[2], metadata={"Date": None})


def _draw(panel: Any, lines: dict[str, dict[str, list[float]]], title: str, along: str, up: str) -> None:  # noqa: ANN401  # mypy runs without matplotlib
    for name, at in lines.items():
        panel.plot(at["x"], at["y"], label=name, color=_COLOURS.get(name), marker="o", markersize=3, linewidth=1.4)
    panel.set_xscale("log")
    if max(y for at in lines.values() for y in at["y"]) < 1:  # a logarithmic axis would exaggerate the differences
        panel.set_ylim(bottom=0)
    else:
        panel.set_yscale("log")
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(along)
    panel.set_ylabel(up)
    panel.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    panel.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
