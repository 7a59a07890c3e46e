"""Commands of kvlab, one file each; every module offers ``add_to(app)``."""
