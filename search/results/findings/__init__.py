"""What a study's trials bear, in sentences: each computed, none beyond what they show."""
