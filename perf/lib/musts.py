"""What must hold between the figures of two sides, or of ours alone. Every must knows its text and its verdict."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Ours is at most 1/`parts` of theirs."""
    parts: float

    def text(self):
        return f"at most 1/{self.parts:g}" if self.parts != 1 else "at most theirs"

    def is_met(self, theirs, ours):
        return None if theirs is None else ours * self.parts <= theirs


@dataclass(frozen=True)
class Times:
    """Ours is at least `times` theirs."""
    times: float

    def text(self):
        return f"at least {self.times:g}x"

    def is_met(self, theirs, ours):
        return None if theirs is None else ours >= theirs * self.times


@dataclass(frozen=True)
class Most:
    """Ours is at most `value`, whatever theirs is."""
    value: float

    def text(self):
        return f"at most {self.value:g}"

    def is_met(self, _theirs, ours):
        return ours <= self.value


@dataclass(frozen=True)
class Near:
    """Each is at most `factor` times the other."""
    factor: float

    def text(self):
        return f"within {self.factor:g}x"

    def is_met(self, theirs, ours):
        return None if theirs is None else max(ours, theirs) <= min(ours, theirs) * self.factor
