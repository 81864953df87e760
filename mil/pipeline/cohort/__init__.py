"""COHORT.toml, and what it describes: its tables, its slides, its grid of experiments."""
