"""Routers, one a file; found through the entry-point group ``kvlab.routers``."""
