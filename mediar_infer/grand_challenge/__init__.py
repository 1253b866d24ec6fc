"""What grand-challenge.org passes to an algorithm and expects from it: sockets, files, names."""
