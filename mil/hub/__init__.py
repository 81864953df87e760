"""Runs, bags and weights to the Hugging Face hub and back: what may go, what goes, and how."""
