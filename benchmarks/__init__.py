"""Speeds, always as ratios measured in one run."""
