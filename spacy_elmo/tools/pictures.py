"""Draws points with categories, as a PNG or as an interactive page that needs no other file."""

import html
import importlib.util
import io
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.layers import Array

# Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow, which is pale on white. Each
# has its own shape, with its names in matplotlib and plotly.
_STYLES = (
    ("#0072B2", "o", "circle"),
    ("#D55E00", "s", "square"),
    ("#009E73", "^", "triangle-up"),
    ("#CC79A7", "D", "diamond"),
    ("#56B4E9", "v", "triangle-down"),
    ("#E69F00", "P", "cross"),
    ("#000000", "X", "x"),
)
_OTHER, _OTHER_STYLE = "other", ("#B0B0B0", ".", "circle-open")
_MOST_WITH_CONTEXT = 40  # With more points, their labels would overlap.
_CONTEXT = 2  # Words to show on each side.
_TITLE = 70  # Characters in a line of the title.
_NAME = 30  # Characters of a category in the legend.
_LINE = 40  # Characters in a line of the sentence shown on hover, so that it fits on a phone.


def check_packages(files: Iterable[Path], method: str) -> None:
    """Check that the packages for these files are installed.

    Raises:
        ElmoError: one is missing.
    """
    packages = {"matplotlib" if file.suffix == ".png" else "plotly" for file in files} | {"sklearn"}
    if missing := sorted(package for package in packages if importlib.util.find_spec(package) is None):
        raise ElmoError(f"pictures need {', '.join(missing)}: pip install 'spacy-elmo[viz]'")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ElmoError("method umap needs umap-learn: pip install umap-learn; or use pca or tsne")


def by_frequency(categories: Iterable[str]) -> list[tuple[str, int]]:
    """Return categories and how often they occur, the most frequent first."""
    return sorted(Counter(categories).items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class Picture:
    """A picture.

    axes: names of x and y; places: `[n, 2]`. categories, words, positions: for each point its category, the words of
        its sentence, and its position there (None: the point is the sentence).
    legend: title of the legend.
    """

    title: str
    axes: tuple[str, str]
    places: Array
    categories: Sequence[str]
    words: Sequence[Sequence[str]]
    positions: Sequence[int | None]
    legend: str

    def _groups(self) -> Iterator[tuple[str, list[int], tuple[str, str, str]]]:
        """Yield name, points and style of each category, most frequent first; those without a style form one group."""
        named = [name for name, _ in by_frequency(self.categories)[: len(_STYLES)]]
        rest = [i for i, category in enumerate(self.categories) if category not in named]
        for name, style in zip(named, _STYLES, strict=False):
            points = [i for i, category in enumerate(self.categories) if category == name]
            short = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
            yield f"{short} ({len(points)})", points, style
        if rest:
            yield f"{_OTHER} ({len(rest)})", rest, _OTHER_STYLE

    def png(self) -> bytes:
        """Return the picture as PNG, 1170 pixels wide."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 6.3), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes: Any = figure.add_subplot()
        size = 70 if len(self.places) <= 200 else 30
        for name, points, (color, marker, _) in self._groups():
            x, y = self.places[points].T
            above = (color, marker) != _OTHER_STYLE[:2]
            axes.scatter(x, y, s=size, c=color, marker=marker, label=_plain(name), alpha=0.8, lw=0, zorder=2 + above)
        axes.set_title(_plain(textwrap.fill(self.title, _TITLE)), fontsize=15)
        axes.set_xlabel(self.axes[0], fontsize=12)
        axes.set_ylabel(self.axes[1], fontsize=12)
        axes.legend(title=self.legend, fontsize=12, title_fontsize=12, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.margins(0.08)
        axes.grid(alpha=0.2)
        buffer = io.BytesIO()
        with _one_warning_of_glyphs():
            if len(self.places) <= _MOST_WITH_CONTEXT:
                figure.draw_without_rendering()
                self._write_contexts(axes)
            figure.savefig(buffer, format="png", pil_kwargs={"optimize": True})
        return buffer.getvalue()

    def _write_contexts(self, axes: Any) -> None:
        """Write a few words next to each point, at the first free place; write none if there is no free place."""
        from matplotlib.offsetbox import AnnotationBbox

        renderer = axes.figure.canvas.get_renderer()
        taken = [_around(axes.transData.transform(place)) for place in self.places]
        for i, place in enumerate(self.places):
            for x, y, across, up in _BESIDE:
                text = AnnotationBbox(
                    _line_of_text(self._context(i)),
                    place,
                    (x, y),
                    boxcoords="offset points",
                    box_alignment=(across, up),
                    frameon=False,
                    pad=0,
                )
                axes.add_artist(text)
                box = text.get_window_extent(renderer)
                if axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1):
                    others = taken[:i] + taken[i + 1 :]
                    if not any(box.overlaps(other) for other in others):
                        taken.append(box)
                        break
                text.remove()

    def _context(self, i: int) -> tuple[str, str, str]:
        """Return the text before the word, the word, and the text after it. If the point is the sentence, the word is
        empty."""
        words, position = self.words[i], self.positions[i]
        if position is None:
            return "", "", " ".join(words[: 2 * _CONTEXT + 1])
        before, behind = words[max(0, position - _CONTEXT) : position], words[position + 1 : position + _CONTEXT + 1]
        return " ".join(before), words[position], " ".join(behind)

    def html(self) -> bytes:
        """Return the picture as a page that shows the sentence of the point under the mouse. It contains plotly's
        script."""
        from plotly import graph_objects

        figure = graph_objects.Figure()
        for name, points, (color, _, symbol) in self._groups():
            figure.add_trace(
                graph_objects.Scatter(
                    x=self.places[points, 0].tolist(),
                    y=self.places[points, 1].tolist(),
                    name=html.escape(name),
                    mode="markers",
                    marker={"color": color, "symbol": symbol, "size": 9, "opacity": 0.8},
                    text=[self._hover(i) for i in points],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
        figure.update_layout(
            xaxis_title=self.axes[0],
            yaxis_title=self.axes[1],
            legend={"title": self.legend, "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            margin={"l": 50, "r": 15, "t": 20, "b": 50},
            template="plotly_white",
            font={"size": 15},
        )
        plot = figure.to_html(
            full_html=False, include_plotlyjs=True, include_mathjax=False, div_id="elmo", config=_CONFIG
        )
        return _PAGE.format(title=html.escape(self.title), plot=plot).encode()

    def _hover(self, i: int) -> str:
        """Return the category, and the sentence in lines with the word in bold."""
        lines, length = [[]], 0  # type: ignore[var-annotated]
        for position, word in enumerate(self.words[i]):
            if length and length + len(word) > _LINE:
                lines.append([])
                length = 0
            shown = html.escape(word)
            lines[-1].append(f"<b>{shown}</b>" if position == self.positions[i] else shown)
            length += len(word) + 1
        return f"<i>{html.escape(self.categories[i])}</i><br>" + "<br>".join(" ".join(line) for line in lines)


_CONFIG = {"responsive": True, "displayModeBar": False}  # the buttons would cover the legend
# The title is outside the plot, which would cut it in a narrow window. The plot fills the rest of the page.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
html, body {{ height: 100%; margin: 0; background: white; }}
body {{ display: flex; flex-direction: column; font-family: "Open Sans", verdana, arial, sans-serif; color: #2a3f5f; }}
h1 {{ margin: 12px 16px 0; font-size: 18px; font-weight: normal; overflow-wrap: anywhere; }}
body > div {{ flex: 1; min-height: 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
{plot}
</body>
</html>
"""

# Places for a text next to a point: the offset in points, and the part of the text, from 0 (left or lower end) to 1,
# that is there.
_BESIDE = tuple(
    (x, y, across, up)
    for y, up in ((0, 0.5), (6, 0.0), (-6, 1.0))
    for x, across in ((8, 0.0), (-8, 1.0), (0, 0.5))
    if x or y
)


def _line_of_text(parts: tuple[str, str, str]) -> Any:
    """Put the parts of a line next to each other, the second in bold."""
    from matplotlib.offsetbox import HPacker, TextArea

    weights = ("normal", "bold", "normal")
    texts: list[Any] = [
        TextArea(_plain(part), textprops={"size": 9, "weight": weight})
        for part, weight in zip(parts, weights, strict=True)
        if part
    ]
    return HPacker(children=texts, pad=0, sep=3, align="baseline")


@contextmanager
def _one_warning_of_glyphs() -> Iterator[None]:
    """Replace matplotlib's warnings about missing characters, one each time it draws one, by a single warning."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    of_glyphs = [warning for warning in caught if str(warning.message).startswith("Glyph ")]
    if of_glyphs:
        warnings.warn("matplotlib's font lacks some characters; they appear as boxes, except in .html", stacklevel=3)
    for warning in caught:
        if warning not in of_glyphs:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _around(place: Any) -> Any:
    """Return the box of a point's mark, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = np.asarray(place)
    return Bbox.from_extents(x - 9, y - 9, x + 9, y + 9)


def _plain(text: str) -> str:
    """Protect a text from matplotlib, which reads a dollar sign as mathematics, and leaves a name that begins with an
    underscore out of the legend."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")
