"""One model in every program that loads what `edgetiny export` writes; `run.py` is the command."""
