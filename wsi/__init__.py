"""Slide to tile store: read any whole-slide image, find its tissue, write its tiles as OME-Zarr.

What is public stands in ``__init__.pyi``, and is imported when it is first used; `docs/python.md` shows it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
