"""Looking at slides before tiling, and at stores after it."""
