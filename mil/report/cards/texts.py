"""Texts of a card: what comes from outside, shown as it is, and what only a person can tell, marked as the Hub does."""

NEEDED = "[More Information Needed]"
"""The Hub's own mark of a gap."""


def plain(text: str) -> str:
    """Return text from outside so that Markdown shows it as it is, on one line."""
    marked = "".join(f"\\{char}" if char in "\\`*_{}[]()#+!|<>~" else char for char in text)
    return " ".join(marked.split())


def gap(what: str) -> str:
    """Return a gap, and what is to stand there."""
    return f"{NEEDED}: {what}"
