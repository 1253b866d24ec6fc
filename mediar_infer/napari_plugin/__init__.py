"""The napari plugin: label files as layers, segmenting and saving for training, a sample."""
