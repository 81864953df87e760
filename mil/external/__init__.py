"""A finished run on another labelled cohort: who is new, how good it is there, and how different that cohort is."""
