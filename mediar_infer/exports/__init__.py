"""From label images to what other tools read: ImageJ ROIs, GeoJSON, tables, OME-Zarr."""
