"""Which settings of fine-tuning keep an ability, and which collapse it?
(Jain et al., arXiv 2311.12786, Tables 5 to 8 and App. E.)
"""
