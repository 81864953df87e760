"""The contact sheet of a cohort, for one look at whether tiling went right."""
