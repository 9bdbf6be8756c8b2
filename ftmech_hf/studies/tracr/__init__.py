"""Compiled programs, fine-tuned and taken apart where the answer is known (Jain et al., App. B to D)."""
