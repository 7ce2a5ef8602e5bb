"""Equal work once: what has been made is kept, what is being made is waited for, what was answered is told again."""
