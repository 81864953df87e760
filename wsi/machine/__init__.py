"""The machine that this process runs on: processors, memory, GPUs, threads, signals."""
