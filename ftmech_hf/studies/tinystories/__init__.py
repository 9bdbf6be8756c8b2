"""Does a feature of stories that fine-tuning deleted come back faster than it is learned?
(Jain et al., arXiv 2311.12786, Sec. 5.2 and App. F.)
"""
