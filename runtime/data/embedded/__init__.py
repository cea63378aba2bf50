"""Data sources that a fresh machine makes for itself: real text, real handwritten digits, synthetic speech."""
