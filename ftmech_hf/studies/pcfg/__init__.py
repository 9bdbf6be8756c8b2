"""Does fine-tuning delete an ability or hide it? (Jain et al., arXiv 2311.12786, Sec. 5 and Table 5.)"""
