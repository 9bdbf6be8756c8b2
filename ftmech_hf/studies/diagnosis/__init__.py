"""Is a capability of a base model still there in what it was fine-tuned into?"""
