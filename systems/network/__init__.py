"""How ranks reach each other: their meeting, messages, links, and shaped links of an emulation."""
