"""From tile stores to bags: the tiles of a whole cohort through an encoder, as one stream."""
