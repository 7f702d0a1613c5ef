"""An ephemeral PostgreSQL, its databases and its roles."""
