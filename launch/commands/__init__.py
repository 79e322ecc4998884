"""The commands of `python -m launch`, one file each; `main(arguments)` runs one."""
