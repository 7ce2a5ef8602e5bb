"""Where gRPC lives, and nowhere else: bind, receive, answer, drain."""
