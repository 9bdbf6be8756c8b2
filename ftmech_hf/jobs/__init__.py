"""Jobs: settings in, one run folder out."""
