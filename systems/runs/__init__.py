"""What a run writes: its record, its steps, its checkpoints and its traces."""
