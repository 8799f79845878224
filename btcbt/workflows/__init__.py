"""The work of the other commands: predict, fine-tune, publish."""
