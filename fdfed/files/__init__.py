"""Files that outlive a process: written whole or not at all, private, locked, read with care."""
