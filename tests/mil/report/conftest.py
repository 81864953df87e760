"""What the report's tests share: a browser."""

from browsing import browser, visit

__all__ = ["browser", "visit"]
