"""TIFF slides of every vendor, decoded tile by tile."""
