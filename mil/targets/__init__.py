"""What a model can be asked for, and how its answers are measured."""
