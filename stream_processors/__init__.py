"""Faust apps (ingest, cases, matcher), the Redis layout, and the pure presence and matching functions."""
