"""Frozen encoders: what they are, which there are, and what they need."""
