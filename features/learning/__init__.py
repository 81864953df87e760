"""What every training of an encoder shares: batches over ranks, steps, checkpoints, the job of each rank, results."""
