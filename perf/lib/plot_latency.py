"""Dots on a logarithmic axis: p50 and p99 of both sides, per axis."""

from lib import svg
from lib.scale import Scale

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 860, 250, 40, 92, 40
ROW, GAP = 40, 14
COLOURS = ("#bc4c00", "#0969da")


def plot(results, labels):
    """An SVG document; None when no axis has these figures."""
    rows = [(result.axis.name, latencies(result)) for result in results if not result.axis.compares_tools]
    rows = [(name, row) for name, row in rows if all(row)]
    if not rows:
        return None
    values = [value for _, row in rows for side in row for value in side]
    scale = Scale(min(values) / 1.5, max(values) * 1.5, LEFT, WIDTH - RIGHT)
    height = TOP + ROW * len(rows) + BOTTOM
    shapes = [svg.text(24, 34, f"{labels[1]} beside {labels[0]}: latency", size=18, weight="600"),
              svg.dot(320, 58, svg.FAINT, hollow=True), svg.text(332, 63, "p50"),
              svg.dot(380, 58, svg.FAINT), svg.text(392, 63, "p99"),
              svg.text(WIDTH - RIGHT, 63, "milliseconds, less is better", "end", fill=svg.FAINT)]
    for at, (label, colour) in enumerate(zip(labels, COLOURS)):
        shapes += svg.key(24 + 140 * at, 52, colour, label)
    shapes += svg.grid(scale, TOP, height - BOTTOM)
    for at, (name, row) in enumerate(rows):
        middle = TOP + ROW * at + ROW / 2
        shapes.append(svg.text(LEFT - 14, middle + 4, name, "end"))
        for place, ((p50, p99), colour) in enumerate(zip(row, COLOURS)):
            y = middle + GAP * (place - 0.5)
            shapes += [svg.line(scale.at(p50), y, scale.at(p99), y, colour, 3),
                       svg.dot(scale.at(p50), y, colour, hollow=True), svg.dot(scale.at(p99), y, colour)]
    return svg.document(WIDTH, height, shapes)


def latencies(result):
    """p50 and p99 of each side; None where they were not measured."""
    figures = {figure.key: result.medians(figure) for figure in result.axis.figures}
    sides = zip(figures.get("p50", (None, None)), figures.get("p99", (None, None)))
    return [pair if all(pair) else None for pair in sides]
