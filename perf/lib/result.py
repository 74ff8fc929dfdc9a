"""What the rounds of an axis gave, and what that comes to."""

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Ours as a multiple of theirs: of the medians, and of the least and the most favoured round."""
    middle: float
    low: float
    high: float


class Result:
    """The runs of an axis: per side and round either values by a figure's key, or None for a run that failed."""

    def __init__(self, axis, sides):
        self.axis, self.sides = axis, sides
        self.runs = {side.label: [] for side in sides}
        self.failures = []
        self.commands = []

    def add(self, side, values):
        self.runs[side.label].append(values)

    def fail(self, side, reason):
        self.runs[side.label].append(None)
        self.failures.append(f"{side.label}, round {len(self.runs[side.label])}: {reason}")

    def note(self, command):
        """Remembers the command of a tool, once."""
        if command not in self.commands:
            self.commands.append(command)

    def medians(self, figure):
        """Of each side; None where no run measured it."""
        values = ([run[figure.key] for run in runs if run and figure.key in run] for runs in self.runs.values())
        return [statistics.median(of_side) if of_side else None for of_side in values]

    def ratio(self, figure):
        """None when a side has nothing to divide."""
        theirs, ours = self.medians(figure)
        pairs = [(a.get(figure.key), b.get(figure.key)) for a, b in zip(*self.runs.values()) if a and b]
        rounds = [b / a for a, b in pairs if is_divisible(a) and is_divisible(b)]
        if not is_divisible(theirs) or not is_divisible(ours) or not rounds:
            return None
        return Ratio(ours / theirs, min(rounds), max(rounds))

    def is_met(self, figure):
        """None when nothing is asked of it, or nothing was measured."""
        theirs, ours = self.medians(figure)
        if figure.must is None or ours is None:
            return None
        return figure.must.is_met(theirs, ours)


def is_divisible(value):
    """Whether it makes a ratio that says something."""
    return value is not None and value > 0 and math.isfinite(value)
