"""The commands of truyvet, a module a group."""
