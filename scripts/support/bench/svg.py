"""A small writer of line charts: SVG that reads on light and on dark ground."""

import math
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 44, 48
# Told apart by people who see no red or no green, too (Okabe and Ito), and by their marks.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f")
STYLE = """
.ground { fill: #ffffff } .ink { fill: #1f2328 } .soft { fill: #59636e } .grid { stroke: #d1d9e0 }
text { font: 12px system-ui, sans-serif } .title { font-size: 14px; font-weight: 600 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .ink { fill: #f0f6fc } .soft { fill: #9198a1 } .grid { stroke: #3d444d } }
"""


@dataclass
class Axis:
    """Where a value stands; `ticks` are pairs of value and text."""

    title: str
    ticks: list
    place: object = field(default=lambda value: value)

    def share(self, value):
        low, high = self.place(self.ticks[0][0]), self.place(self.ticks[-1][0])
        return (self.place(value) - low) / ((high - low) or 1)


@dataclass
class Line:
    name: str
    points: list
    # Pairs of lowest and highest, one a point, drawn as a band; empty for none.
    spread: list = field(default_factory=list)


def chart(title, x, y, lines):
    """The text of an SVG file."""
    at_x = lambda value: LEFT + x.share(value) * (WIDTH - LEFT - RIGHT)
    at_y = lambda value: HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        text(LEFT, 24, title, "ink title"),
    ]
    for value, label in y.ticks:
        out.append(rule(LEFT, at_y(value), WIDTH - RIGHT, at_y(value)))
        out.append(text(LEFT - 8, at_y(value) + 4, label, "soft", "end"))
    for value, label in x.ticks:
        out.append(rule(at_x(value), TOP, at_x(value), HEIGHT - BOTTOM))
        out.append(text(at_x(value), HEIGHT - BOTTOM + 18, label, "soft", "middle"))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x.title, "soft", "middle"))
    out.append(text(LEFT - 8, TOP - 8, y.title, "soft", "start"))
    for number, line in enumerate(lines):
        out.extend(drawn(line, COLOURS[number % len(COLOURS)], number, at_x, at_y))
        out.extend(legend(line.name, COLOURS[number % len(COLOURS)], number))
    return "\n".join(out) + "\n</svg>\n"


def drawn(line, colour, number, at_x, at_y):
    places = [(at_x(a), at_y(b)) for a, b in line.points]
    if line.spread:
        low = [(at_x(p[0]), at_y(s[0])) for p, s in zip(line.points, line.spread)]
        high = [(at_x(p[0]), at_y(s[1])) for p, s in zip(line.points, line.spread)]
        yield f'<polygon points="{path(low + high[::-1])}" fill="{colour}" fill-opacity="0.15"/>'
    yield f'<polyline points="{path(places)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for place in places:
        yield mark(*place, colour, number)


def legend(name, colour, number):
    top = TOP + 14 + number * 20
    yield mark(WIDTH - RIGHT + 18, top - 4, colour, number)
    yield text(WIDTH - RIGHT + 30, top, name, "ink")


def mark(x, y, colour, number):
    """Another shape for each line, for print without colour."""
    if number % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if number % 3 == 1:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    corners = [(x, y - 5), (x + 5, y + 4), (x - 5, y + 4)]
    return f'<polygon points="{path(corners)}" fill="{colour}"/>'


def path(places):
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def rule(x1, y1, x2, y2):
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x, y, words, style, anchor="start"):
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def linear_ticks(highest):
    """From 0 to above `highest`, five or so, at 1, 2 or 5 times a power of ten."""
    step = 10 ** math.floor(math.log10(max(highest, 1e-9) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if highest / (step * factor) <= 6)
    count = math.ceil(highest / step)
    return [(n * step, f"{n * step:g}") for n in range(count + 1)]


def log_ticks(lowest, highest):
    """1, 2 and 5 times powers of ten, from the last below the two to the first above."""
    low, high = math.floor(math.log10(max(lowest, 1e-9))), math.ceil(math.log10(max(highest, 1e-9)))
    steps = [factor * 10.0**power for power in range(low, high + 1) for factor in (1, 2, 5)]
    first = max(step for step in steps if step <= lowest)
    last = min(step for step in steps if step >= highest)
    return [(step, f"{step:,.10g}") for step in steps if first <= step <= max(last, 2 * first)]
