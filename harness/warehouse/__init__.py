"""PostgreSQL servers, and the warehouse's database and roles."""
