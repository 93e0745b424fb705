"""What is printed: posters that people scan, and cards that venues scan."""
