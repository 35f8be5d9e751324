"""Looking at negatives: an audit of any recipe or run, what it means in words, and the items that come nearest."""
