"""Pictures and masks: where they come from, how they are split, cached, checked and varied."""
