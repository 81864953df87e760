"""The bag: one HDF5 file of features per slide, written, read and verified."""
