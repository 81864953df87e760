"""A run, shown: what its models say of each slide, on pages and by a local server."""
