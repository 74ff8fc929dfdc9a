"""Results as Markdown."""

import itertools
import math
import shlex

from lib.server import Server

VERDICTS = {True: "yes", False: "**no**", None: ""}


def tables(results):
    """A table per group of axes, and what failed."""
    parts = []
    for group, members in itertools.groupby(results, lambda result: result.axis.group):
        members = list(members)
        theirs, ours = (side.label for side in members[0].sides)
        lines = [f"### {group}", "",
                 f"| axis | figure | {theirs} | {ours} | ratio | rounds | must | met |",
                 "|---|---|--:|--:|--:|---|---|---|"]
        lines += [row(result, figure) for result in members for figure in result.axis.figures]
        lines += [f"\nFailed: {result.axis.name}, {failure}" for result in members for failure in result.failures]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def row(result, figure):
    theirs, ours = (value(median, figure.digits) for median in result.medians(figure))
    ratio = result.ratio(figure)
    middle = times(ratio.middle) if ratio else ""
    spread = f"{times(ratio.low)} .. {times(ratio.high)}" if ratio and ratio.low != ratio.high else ""
    must = figure.must.text() if figure.must else ""
    return (f"| {result.axis.name} | {figure.label} | {theirs} | {ours} | {middle} | {spread} | {must} | "
            f"{VERDICTS[result.is_met(figure)]} |")


def value(number, digits):
    if number is None:
        return "none"
    return "never" if math.isinf(number) else f"{number:,.{digits}f}".replace(",", " ")


def times(ratio):
    """Ours as a part of theirs, or as a multiple."""
    return f"{ratio:.1f}x" if ratio >= 1 else f"1/{1 / ratio:.1f}"


def document(results, labels, machine, day, mode, pictures):
    """A results file."""
    facts = "\n".join(f"| {name} | {fact} |" for name, fact in machine.items())
    images = "\n\n".join(f"![{title}]({name})" for title, name in pictures.items())
    server = shlex.join(Server("SERVER", "FOLDER", itertools.count(2379)).command())
    commands = "\n\n".join(f"`perf/compare{mode} {result.axis.name}`: {result.axis.about}\n\n```sh\n" +
                           "\n".join(result.commands) + "\n```" for result in results)
    return f"""# {labels[1]} beside {labels[0]}, {day}

| | |
|---|---|
{facts}

Medians of the rounds; both sides ran in turns on the same disk. A ratio is {labels[1]} as a part or a multiple of
{labels[0]}, with the least and the greatest of any round.

{images}

{tables(results)}
## Commands

Both servers were started as

```sh
{server}
```

with ports of their own, and each `kevel-bench` below was told `--endpoints` and `--server-pid`.

{commands}
"""
