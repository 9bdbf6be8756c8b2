"""What makes and what breaks safety fine-tuning, with the controls it needs (Jain et al., arXiv 2407.10264)."""
