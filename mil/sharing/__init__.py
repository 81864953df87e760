"""De-identified bundles of stores, bags and runs."""
