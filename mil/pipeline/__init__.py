"""A whole cohort by one file: stages in their order, a table of experiments that several processes work through."""
