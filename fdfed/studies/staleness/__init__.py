"""The study of late replies: what they cost, and what waiting they save."""
