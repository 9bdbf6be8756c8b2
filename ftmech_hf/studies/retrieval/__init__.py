"""Does fine-tuning help a model that answers from retrieved documents? (arXiv 2406.11201.)"""
