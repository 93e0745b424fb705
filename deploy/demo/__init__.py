"""The demo: a story on real engines, and an oracle that checks it."""
