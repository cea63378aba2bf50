"""Study to plan: every run resolved, identified and costed, without torch and without data."""
