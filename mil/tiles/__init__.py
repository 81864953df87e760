"""Tiles judged one by one: classifiers that learn from regions that a person drew."""
