"""What each benchmark measures, and against what."""
