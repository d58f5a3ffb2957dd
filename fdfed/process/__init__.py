"""What every long-running command shares: logs, health, metrics, start-up, exit codes."""
