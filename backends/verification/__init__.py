"""Policies carried out on real rows and compared with a reference that has no policy."""
