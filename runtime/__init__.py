"""Plan to trained runs: the model, its objective and data, and the processes that train it."""
