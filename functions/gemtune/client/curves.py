"""Loss curves: as a DataFrame where pandas is there, and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from gemtune.client.errors import BadUse

Entries = Sequence[Mapping[str, Any]]
WIDTH, HEIGHT, MARGIN = 640, 240, 40
# Curves of a picture, and their colours.
CURVES = {"loss": "#3366cc", "eval_loss": "#dc3912"}


def as_table(entries: Entries) -> Any:
    """Return a loss history as a DataFrame, or as a list without pandas."""
    if find_spec("pandas") is None:
        return list(entries)
    import pandas

    return pandas.DataFrame(entries)


def draw(entries: Entries, title: str) -> str:
    """Return a loss history as SVG: losses over train_steps."""
    curves = {
        name: [(float(each["train_step"]), float(each[name])) for each in entries if each.get(name) is not None]
        for name in CURVES
    }
    points = [point for curve in curves.values() for point in curve]
    parts = [f'<text x="{MARGIN}" y="20">{_escaped(title)}</text>']
    if points:
        legend = 20
        steps, losses = [point[0] for point in points], [point[1] for point in points]
        for name, curve in curves.items():
            places = " ".join(
                f"{_scaled(step, steps, MARGIN, WIDTH - MARGIN):.1f},"
                f"{_scaled(loss, losses, HEIGHT - MARGIN, MARGIN):.1f}"
                for step, loss in curve
            )
            if curve:
                parts.append(f'<polyline fill="none" stroke="{CURVES[name]}" stroke-width="2" points="{places}"/>')
                parts.append(
                    f'<text x="{WIDTH - MARGIN}" y="{legend}" text-anchor="end" fill="{CURVES[name]}">{name}</text>'
                )
                legend += 16
        parts += [
            f'<text x="2" y="{MARGIN}">{max(losses):.3g}</text>',
            f'<text x="2" y="{HEIGHT - MARGIN}">{min(losses):.3g}</text>',
            f'<text x="{MARGIN}" y="{HEIGHT - 10}">{min(steps):.0f}</text>',
            f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 10}">{max(steps):.0f}</text>',
        ]
    style = 'font-family="sans-serif" font-size="12" fill="currentColor" xmlns="http://www.w3.org/2000/svg"'
    return f'<svg width="{WIDTH}" height="{HEIGHT}" {style}>{"".join(parts)}</svg>'


def open_picture() -> Callable[[str], None]:
    """Show a picture in a notebook; return a function that replaces it.

    Raises BadUse outside of a notebook.
    """
    if find_spec("IPython") is None:
        raise BadUse("a curve is shown in a notebook, which has IPython; elsewhere use wait()")
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    if handle is None:
        raise BadUse("a curve is shown in a notebook; elsewhere use wait()")
    return lambda picture: handle.update(HTML(picture))


def _scaled(value: float, values: Sequence[float], start: float, end: float) -> float:
    least, most = min(values), max(values)
    return start + (end - start) * ((value - least) / (most - least) if most > least else 0.5)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
