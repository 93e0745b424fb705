"""Chaos: processes are killed, stopped and ended while a seeded scenario streams; then an oracle judges.

`python -m tests.chaos --seconds 600 --seed 7 --scans 500000 --out FILE`, or `make chaos`.
"""
