"""The testbed's only command line: `python -m launch`, or `testbed`."""
