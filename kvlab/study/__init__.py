"""Studies: a question as one TOML file, its points, how they are run and where they are kept."""
