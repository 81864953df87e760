"""A run for programs other than this one: graphs, leaner forms, one file of all."""
