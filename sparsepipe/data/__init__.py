"""Point clouds: read from files, or generated, and read ahead."""
