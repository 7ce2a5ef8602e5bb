"""A model's preprocessor_config.json -> Recipe: which steps, which numbers."""
