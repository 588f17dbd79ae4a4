"""Tables for people, lines of JSON for programs."""

import json
import math
import time
from pathlib import Path


def markdown(header, rows):
    """
    >>> print(markdown(["q", "n"], [["q0", "12"], ["q10", "3"]]))
    | q   |  n |
    |-----|---:|
    | q0  | 12 |
    | q10 |  3 |
    """
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells):
        # The first column is a name, the others are numbers.
        padded = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths))]
        return "| " + " | ".join(padded) + " |"

    rules = ["-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), "|" + "|".join(rules) + "|", *map(line, rows)])


def thousands(number):
    """
    >>> thousands(1234567), thousands(12345), thousands(None)
    ('1,235k', '12.3k', '')
    """
    if number is None:
        return ""
    return f"{number / 1000:,.0f}k" if number >= 99_950 else f"{number / 1000:.1f}k"


def size(n_bytes):
    """
    >>> size(None), size(3 << 30), size(200 << 20)
    ('', '3.0 GiB', '200 MiB')
    """
    if n_bytes is None:
        return ""
    return f"{n_bytes / (1 << 30):.1f} GiB" if n_bytes >= 1 << 30 else f"{n_bytes / (1 << 20):.0f} MiB"


def ratio(a, b):
    return None if not a or not b else a / b


def times(value):
    """
    >>> times(None), times(0.234), times(12.34), times(123.4)
    ('', '0.23', '12.3', '123')
    """
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def geometric_mean(values):
    """
    >>> round(geometric_mean([1, 100]), 6), geometric_mean([None])
    (10.0, None)
    """
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def quantile(values, q):
    """
    >>> quantile([3, 1, 2], 0.5), quantile([1, 2], 1.0)
    (2, 2)
    """
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


class Results:
    """Measurements as they are made, a line of JSON each, and the table at the end, beside each other."""

    def __init__(self, directory, name):
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self.path = Path(directory) / f"{name}-{stamp}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **measurement):
        with self.path.open("a") as out:
            out.write(json.dumps(measurement) + "\n")

    def finish(self, text):
        self.path.with_suffix(".md").write_text(text + "\n")
        return self.path.with_suffix(".md")
