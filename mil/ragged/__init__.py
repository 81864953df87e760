"""Bags of unequal length as rows and offsets, never padded."""
