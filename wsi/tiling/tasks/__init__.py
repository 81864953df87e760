"""The steps of one slide, as tasks: bands and mask, regions, their settling, the finish."""
