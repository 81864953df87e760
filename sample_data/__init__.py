"""The sample cohort: slides that the software paints itself, and the program that paints them."""
