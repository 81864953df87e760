"""What compressed pixels are, and how they become plain RGB at the size that is wanted."""
