"""Slides as a folder of pages that opens by a double click, without gigamil and without a network."""
