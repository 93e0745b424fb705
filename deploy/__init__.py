"""How it runs: the command line and the embedded stack."""
