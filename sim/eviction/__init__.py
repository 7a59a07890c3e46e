"""Which entry of a full prefix cache goes next: one small class for each policy."""
