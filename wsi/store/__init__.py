"""The tile store: its geometry, its files, written, read and verified."""
