"""From slides to tile stores: the stages, and the tasks that Dask runs."""
