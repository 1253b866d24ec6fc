"""Reading: from a file or an array to rows of three channels."""
