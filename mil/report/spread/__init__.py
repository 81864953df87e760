"""The report's sections on uncertainty and on centers: templates of what `mil.evaluation.spread` tells."""
