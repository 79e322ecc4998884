"""What ranks do in a step: CONV workers, FC workers, parameter servers, whole-model workers."""
