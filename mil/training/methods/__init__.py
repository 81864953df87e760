"""What a training may do beyond plain steps: averages, sharpness, softer targets, a teacher, a rate that changes."""
