"""Amounts, times and ranges as a person reads them."""

from mil.accounting.ranges import Range


def size(amount: float | Range) -> str:
    """Return bytes, or the expected ones of a range: ``410 GB``."""
    value = amount.expected if isinstance(amount, Range) else float(amount)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Return a time: ``40 s``, ``12 min``, ``3.5 h``, ``9 days``."""
    for factor, unit, most in ((1, "s", 99.5), (60, "min", 99.5), (3600, "h", 71.5)):
        if seconds / factor < most:
            return f"{seconds / factor:.2g} {unit}" if seconds / factor < 9.95 else f"{seconds / factor:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def span(seconds: Range) -> str:
    """Return a range of times: ``10 min (8 to 14 min)``."""
    return f"{duration(seconds.expected)} ({duration(seconds.low)} to {duration(seconds.high)})"


def sizes(amount: Range) -> str:
    """Return a range of bytes: ``1.2 GB (1 to 1.5 GB)``."""
    return f"{size(amount)} ({size(amount.low)} to {size(amount.high)})" if amount.expected else ""


def counts(amount: Range) -> str:
    """Return a range of numbers."""
    if amount.high - amount.low < 1:
        return f"{amount.expected:,.0f}"
    return f"{amount.expected:,.0f} ({amount.low:,.0f} to {amount.high:,.0f})"
