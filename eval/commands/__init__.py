"""The commands of `python -m eval`: options are read here, the work is done in the rooms."""
