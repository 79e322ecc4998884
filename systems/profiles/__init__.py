"""What every layer of a model costs on one kind of device: measured, read, or waited for."""
