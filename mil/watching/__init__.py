"""Watching: what runs, how far it is, where the time goes, and what is wrong with an installation."""
