"""Which slides a request means, what is known of them, and what became of each."""
