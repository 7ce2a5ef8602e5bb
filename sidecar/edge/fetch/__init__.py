"""Media by its address: which may be asked for, what is connected to, and what is taken."""
