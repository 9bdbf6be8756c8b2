"""When a program whose every weight is known is fine-tuned, where is the change, and do the instruments find it?
(Jain et al., arXiv 2311.12786, Table 3 and App. B to D.)
"""
