"""The Docker engine, the images, and how they get into a node."""
