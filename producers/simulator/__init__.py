"""A seedable province: venues, people with habits, the scans that they would send, and the truth of them."""
