"""The data-addition study: what a base site gains or loses as another joins with more images."""
