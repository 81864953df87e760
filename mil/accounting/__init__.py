"""What stages were estimated to take, and what they took."""
