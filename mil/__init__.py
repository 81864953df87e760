"""Bags of tile features in; models, patient-level predictions and the evidence for them out.

What is public stands in ``__init__.pyi``, and is imported when it is first used; `docs/python.md` shows it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
