"""A library: people, documents about them, and questions that documents or memory answer."""
