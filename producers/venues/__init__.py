"""The register of venues, as the command line keeps it: read from the topic, import from CSV."""
