"""The one error of this package."""


class DataError(Exception):
    """A data source cannot be made, read or decoded: the message says what is wrong and what to do."""
