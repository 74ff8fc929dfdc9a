"""Bars: by how much less CPU, and how much more throughput, per axis."""

from lib import svg
from lib.scale import Scale

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 860, 250, 60, 92, 40
ROW, BAR = 40, 13
# A figure's key, its name, its colour, and the power that makes more of its ratio better.
SERIES = (("cpu", "server CPU per operation: times less", "#0969da", -1),
          ("rate", "throughput: times more", "#1a7f37", 1))


def plot(results, labels):
    """An SVG document; None when no axis has these figures."""
    rows = [(result.axis.name, gains(result)) for result in results if not result.axis.compares_tools]
    rows = [(name, row) for name, row in rows if row]
    if not rows:
        return None
    values = [gain for _, row in rows for gain in row.values()]
    scale = Scale(min(0.5, *values), max(10, *values) * 1.15, LEFT, WIDTH - RIGHT)
    height = TOP + ROW * len(rows) + BOTTOM
    shapes = [svg.text(24, 34, f"{labels[1]} beside {labels[0]}: CPU and throughput", size=18, weight="600")]
    for at, (_, name, colour, _) in enumerate(SERIES):
        shapes += svg.key(24 + 290 * at, 52, colour, name)
    shapes += svg.grid(scale, TOP, height - BOTTOM, "x")
    for at, (name, row) in enumerate(rows):
        top = TOP + ROW * at + (ROW - BAR * len(row)) / 2
        shapes.append(svg.text(LEFT - 14, TOP + ROW * at + ROW / 2 + 4, name, "end"))
        for place, (key, _, colour, _) in enumerate(series for series in SERIES if series[0] in row):
            y, end = top + BAR * place, scale.at(row[key])
            shapes += [svg.bar(scale.at(1), y, end, BAR - 2, colour),
                       svg.text(max(end, scale.at(1)) + 5, y + 10, f"{row[key]:.1f}", size=11, fill=svg.FAINT)]
    shapes.append(svg.line(scale.at(1), TOP, scale.at(1), height - BOTTOM, svg.INK))
    return svg.document(WIDTH, height, shapes)


def gains(result):
    """By key of the series, how many times better ours is."""
    found = {}
    for figure in result.axis.figures:
        for key, _, _, power in SERIES:
            ratio = result.ratio(figure) if figure.key == key else None
            if ratio:
                found[key] = ratio.middle ** power
    return found
