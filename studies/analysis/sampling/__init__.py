"""What a sampling study found: its points as a table, quality against network calls, defaults, and a report."""
