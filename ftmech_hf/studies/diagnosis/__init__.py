"""Is a capability of a base model still there in what it was fine-tuned into?
(Jain et al., arXiv 2311.12786 and arXiv 2407.10264.)
"""
