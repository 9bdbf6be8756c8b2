"""Compiled programs, fine-tuned and taken apart where the answer is known (Jain et al., Sec. 4 and App. C.1)."""
