"""From bands of maps to instance labels, label files and scores."""
