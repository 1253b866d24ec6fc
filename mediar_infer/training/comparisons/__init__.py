"""The paper's tables of comparisons."""
