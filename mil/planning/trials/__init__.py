"""Measuring: the real tiler, encoder and heads on a little of the work, each in a process of its own."""
