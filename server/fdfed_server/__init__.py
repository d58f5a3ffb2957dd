"""What the coordinator runs: rounds, aggregation, the exchange hub, the command `fdfed-server`."""
