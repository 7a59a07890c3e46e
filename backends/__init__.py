"""Real arrays and real engines: what proves the simulator's decisions and calibrates its clock."""
