"""The sub-commands of `python -m dataset_scripts`."""
