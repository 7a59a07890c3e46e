"""The simulator: models, cells, policies, schedulers, time models, engine and recorder."""
