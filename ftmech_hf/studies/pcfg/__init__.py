"""The paper's main effects at a small scale, over seeds, with controls (Jain et al., arXiv 2311.12786, Sect. 5)."""
