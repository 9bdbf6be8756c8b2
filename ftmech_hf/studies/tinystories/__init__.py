"""Stories with a feature that fine-tuning deletes, and ways to bring it back (Jain et al., Sect. 5.2 and App. F)."""
