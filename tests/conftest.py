"""Settings of all tests."""

from hypothesis import settings

# What an example costs depends on the machine's other work; speed is measured in `benchmarks`.
settings.register_profile("triptych", deadline=None)
settings.load_profile("triptych")
