"""Models from files: TOML, Hugging Face configurations, GGUF headers."""
