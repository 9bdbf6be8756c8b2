"""The models: sizes, and loading from a folder or the Hub."""
