"""A cohort on a Slurm cluster: job scripts made of COHORT.toml, submitted in a chain, and what became of them."""
