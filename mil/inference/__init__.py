"""A finished run asked about slides that it has not seen."""
