"""The shapes that plots are made of. A document has a white ground with round corners: it is read on dark pages too."""

from xml.sax.saxutils import escape

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
INK, FAINT, GRID = "#1f2328", "#656d76", "#d8dee4"


def document(width, height, shapes):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="{FONT}" font-size="13" fill="{INK}">\n'
            f'<rect width="{width}" height="{height}" rx="12" fill="#ffffff"/>\n' + "\n".join(shapes) + "\n</svg>\n")


def text(x, y, words, anchor="start", size=13, fill=INK, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def line(x1, y1, x2, y2, stroke=GRID, width=1):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
            f'stroke-width="{width}" stroke-linecap="round"/>')


def bar(x1, y, x2, height, fill):
    """Between two abscissae, in whichever order."""
    return (f'<rect x="{min(x1, x2):.1f}" y="{y:.1f}" width="{max(abs(x2 - x1), 1):.1f}" height="{height}" rx="2" '
            f'fill="{fill}"/>')


def dot(x, y, fill, hollow=False):
    ground = "#ffffff" if hollow else fill
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{ground}" stroke="{fill}" stroke-width="2"/>'


def key(x, y, fill, words):
    """What a colour stands for."""
    return [bar(x, y, x + 14, 12, fill), text(x + 22, y + 11, words)]


def grid(scale, top, bottom, unit=""):
    """The lines of a scale's ticks, and their values below."""
    return [shape for tick in scale.ticks() for x in (scale.at(tick),)
            for shape in (line(x, top, x, bottom), text(x, bottom + 20, f"{tick:g}{unit}", "middle", 12, FAINT))]
