"""What was found, in words and tables; figures are drawn when asked for."""
