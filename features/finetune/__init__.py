"""Fine-tuning of an encoder on tiles that carry their slide's label, under DistributedDataParallel."""
