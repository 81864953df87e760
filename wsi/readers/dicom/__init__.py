"""DICOM whole-slide images, decoded frame by frame."""
