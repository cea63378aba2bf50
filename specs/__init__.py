"""The study language: what users write, read and checked, with the line of everything that is wrong."""
