"""Nested cross-validation of a training: the head that scores a fold is chosen on inner folds without it."""
