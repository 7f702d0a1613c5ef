"""Programs that the harness starts: commands, work in threads, and the supervisor that ends them."""
