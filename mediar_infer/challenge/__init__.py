"""The challenge's protocol as the organisers run it, for any submission: runs, checks and page."""
