"""What grand-challenge.org gives to an algorithm and wants from it: sockets, files and names."""
