"""For all tests: no test may fail because the machine is slow."""

from hypothesis import settings

settings.register_profile("handcar", deadline=None)
settings.load_profile("handcar")
