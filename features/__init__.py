"""Tile store to bag: every tile of a cohort through a frozen encoder, on any number of processes.

What is public stands in ``__init__.pyi``, and is imported when it is first used; `docs/python.md` shows it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
