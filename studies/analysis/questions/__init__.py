"""What a study asks, answered: a `Study` in, what was found out."""
