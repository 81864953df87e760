"""What is said of single tiles: darkness, focus, texture, pen, fold, bubble, duplicate; and leaving tiles out by it."""
