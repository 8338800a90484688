"""Tables for people: of a profile, and of a benchmark. Knows nothing of measuring; lays out what it is given."""
