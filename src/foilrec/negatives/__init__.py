"""What samplers share: ranks among the unseen, boundaries of score, curricula, and made-up negatives kept in place."""
