"""The join, model-checked: the production code itself, run in every order of its steps.

actors.py     the roles' own coroutines, stopped at every call to Redis and every write to Kafka
scripts.py    the real Lua scripts on a real Redis, from any state, remembered
explore.py    every interleaving, with crashes and zombies, down to rest; what must hold there
scenarios.py  small worlds, and what must stand at their end
unsafe.py     the simpler protocols, which have to be found out
"""
