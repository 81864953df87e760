"""The learning rate over the epochs."""

import math

from mil.training.options import TrainOptions


def learning_rate(options: TrainOptions, epoch: float) -> float:
    """Return the rate at a (fractional) epoch: linear warm-up, then half a cosine down to 0."""
    warmup = min(options.warmup_epochs, options.epochs - 1)
    if epoch < warmup:
        return options.lr * (epoch + 1) / (warmup + 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (options.epochs - warmup)))
