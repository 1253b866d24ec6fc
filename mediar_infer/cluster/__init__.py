"""A folder over the workers of a Dask cluster."""
