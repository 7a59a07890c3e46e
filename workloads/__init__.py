"""Traffic: requests, synthetic generators, arrival processes and readers of public traces."""
