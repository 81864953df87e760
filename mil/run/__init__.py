"""The run folder: what lies in it, read through one door, and what it says of itself."""
