"""The comparison with other methods: what is trained, how it is judged, what is left of it."""
