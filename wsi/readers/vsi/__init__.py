"""Olympus VSI slides."""
