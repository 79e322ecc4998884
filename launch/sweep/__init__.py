"""A sweep: one job at all combinations of some values, in one folder that grows.

`variables` finds what the user's words mean, `points` keeps what was asked for, `rows` reads the
records into the table, `groups` compares them, and `picture` draws them. The command
`launch.commands.sweep` runs the points.
"""
