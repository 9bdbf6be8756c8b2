"""What is trained: stock architectures, compiled programs, and how models are loaded."""
