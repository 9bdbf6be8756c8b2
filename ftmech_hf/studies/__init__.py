"""Studies: a plan of jobs, claims, tables and one page each. A study is one folder that imports no other study."""
