"""What a report of a target without classes has beside the metrics of all: survival, values, labels, each a file."""
