"""Stories with a feature that fine-tuning deletes, and ways to bring it back (Jain et al., Sec. 6)."""
