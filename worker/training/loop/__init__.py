"""What every training loop has in common."""
