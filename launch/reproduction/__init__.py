"""`testbed reproduce`: all experiments of the papers, and the report about them."""
