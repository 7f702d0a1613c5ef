"""What a run must leave, computed from the files without the code of the load, and the comparison with what it left."""
