"""Tile store to bag: every tile of a cohort through a frozen encoder, on any number of processes."""
