"""What holds for all tests."""

from hypothesis import settings

# Machines differ in speed; how long an example takes says nothing about whether it is right.
settings.register_profile("kvlab", deadline=None)
settings.load_profile("kvlab")
