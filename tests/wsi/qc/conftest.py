"""What the tests of the contact sheet share: a browser."""

from browsing import browser, visit

__all__ = ["browser", "visit"]
