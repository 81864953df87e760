"""What a run says of the tiles of a slide: scores, pictures, and files that other programs open."""
