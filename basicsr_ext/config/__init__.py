"""Option files: schema, loading, overrides, error messages. Imports nothing else of the package, no torch."""
