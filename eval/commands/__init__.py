"""The commands of `magic123`: options are read here, the work is done in the rooms."""
