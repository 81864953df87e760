"""De-identified bundles of tile stores, and the search for what should not be in them."""
