"""Jobs: their states, their rows, and who may change them."""
