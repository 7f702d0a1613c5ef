"""What a change does to the data: the marts of a base commit beside those of this working tree, on the same rows."""
