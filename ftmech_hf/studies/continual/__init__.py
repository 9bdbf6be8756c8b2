"""Which methods keep what was known over a sequence of tasks, and is what seems forgotten hidden? (arXiv 2308.13320)"""
