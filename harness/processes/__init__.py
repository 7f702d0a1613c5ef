"""Programs that the harness starts: commands, background work, the supervisor that ends them."""
