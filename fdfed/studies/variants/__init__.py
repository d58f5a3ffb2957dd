"""Smaller studies: some variants of a method, each set against one of them, seed by seed."""
