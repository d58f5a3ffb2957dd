"""What a hospital runs: local training, access to the site's images, the command `fdfed-client`."""
