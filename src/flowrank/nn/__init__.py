"""Smaller layers: heads of their own widths, two factors, 8-bit integers; and the config key that holds their sizes."""
