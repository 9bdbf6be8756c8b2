"""What the change did inside: tensors in, frozen dataclasses out; one file answers one question."""
