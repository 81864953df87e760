"""Which cases a person should look at next: to label new ones, or to check labels that are there."""
