"""Ours beside the engines that others made: same model, same tokens, same machine.

`run.py` is the command. `child.py` runs one engine in one process of that engine's own virtual
environment, so `engines/` imports nothing of this project but `engines/edgetiny_runtime.py`.
"""
