"""The figures, one function each; they stand alone in a notebook."""
