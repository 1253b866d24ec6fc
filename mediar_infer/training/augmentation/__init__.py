"""From an image of the data table to a batch of random crops with their targets."""
