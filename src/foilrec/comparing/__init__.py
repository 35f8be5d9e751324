"""Finished runs side by side: gains paired by user, intervals, corrected tests, and the tables they make."""
