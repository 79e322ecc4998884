"""The commands of `python -m launch`, a file each."""
