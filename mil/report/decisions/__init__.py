"""The report's sections on deciding by a run's answers, and on when it should say no."""
