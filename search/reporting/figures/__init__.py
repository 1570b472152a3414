"""The figures of a study, by the topic of the sentences that they stand beside."""
