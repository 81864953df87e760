"""A small share of a cohort twice, plainly and with the production settings, compared stage by stage."""
