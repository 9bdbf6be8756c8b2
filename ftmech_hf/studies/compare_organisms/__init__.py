"""How often does a comparison find what was planted, and how often something where nothing was taught?"""
