"""Slides to look at: pages that open by a double click, and what a local server shows."""
