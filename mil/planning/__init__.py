"""What a cohort will take, before anything runs: time, memory, disk, price."""
