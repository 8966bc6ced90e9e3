"""Hydra YAML and the schema that types it."""
