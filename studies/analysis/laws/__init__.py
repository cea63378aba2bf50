"""Laws: arrays in, fitted laws out."""
