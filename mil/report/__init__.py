"""Pages that a person reads: one run's, or several compared."""
