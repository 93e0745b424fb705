"""Every shape that crosses a process boundary: events, topics, codes, QR payloads, settings.

This package imports nothing of the others; all the others may import it.
"""
