"""Files as lines that PostgreSQL's COPY reads: a module per format."""
