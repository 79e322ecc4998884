"""Clusters that plans are made for; the presets lie here as TOML files.

cluster     nodes that are joined by one switch
node        one or more equal machines, each with its devices and one network interface
device      something that computes; a profile is taken for one kind of it
link        a connection that carries the same rate in both directions at once
"""
