"""What a worker process gives up before its first job, so that media which takes it over has nowhere to go."""
