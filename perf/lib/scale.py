"""A logarithmic axis."""

import math

STEPS = (1, 2, 5)


class Scale:
    """Maps values from `low` to `high` to the abscissae from `left` to `right`."""

    def __init__(self, low, high, left, right):
        self.low, self.high, self.left, self.right = low, high, left, right

    def at(self, value):
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.left + part * (self.right - self.left)

    def ticks(self):
        """Round values on it; only powers of ten where those are many."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = STEPS if len(decades) <= 4 else STEPS[:1]
        values = (step * 10.0 ** decade for decade in decades for step in steps)
        return [value for value in values if self.low <= value * 1.0001 and value <= self.high * 1.0001]
