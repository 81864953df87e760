"""What can be decided by a run's probabilities: operating points, net benefit, and whether the probabilities hold."""
