"""Hamamatsu NDPI, read directly."""
