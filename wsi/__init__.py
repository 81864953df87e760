"""Slide to tile store: read any whole-slide image, find its tissue, write its tiles as OME-Zarr."""
