"""What centers do to a result: whether features share the class or the center, and what is left within each center."""
