"""`gigamil train --auto`: settings by the size, the classes and the bags of a cohort, each with its reason."""
