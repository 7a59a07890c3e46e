"""How fast the simulator and its allocators are, each case in a process of its own."""
