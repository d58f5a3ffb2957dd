"""Who belongs to the consortium, who may say so, and how a hospital joins and leaves."""
