"""Slides as vectors: bags of tiles to bags of one row, which train, similar and compare take as any bag."""
