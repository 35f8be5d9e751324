"""Formulas of the papers, written a second time: slowly, with dense matrices and plain loops."""
