"""The kit that studies report with: claims, charts, tables, one page, the terminal."""
