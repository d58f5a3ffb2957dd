"""The study of the advisor: does the shift of prototypes foretell what a site brings?"""
