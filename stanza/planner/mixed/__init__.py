"""Plans for clusters whose nodes differ: kinds of devices, links, memory.

Every rank has its own costs and its own link here. The predictions are written apart from the
simulator, as are those for nodes that are alike (`stanza.planner.predict` and `recurrence`).
"""
