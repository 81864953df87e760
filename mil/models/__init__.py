"""A head with the standardisation of its features: one model, and all those of a run, asked about bags."""
