"""What the processes do that a launcher starts: workers, on real links and on emulated ones."""
