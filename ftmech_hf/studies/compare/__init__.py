"""What did fine-tuning do at all? Two models in, no question needed."""
