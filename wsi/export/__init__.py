"""A tile store in the forms that other software reads: OME-Zarr 0.4 and OME-TIFF."""
