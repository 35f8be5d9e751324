"""What is measured, as functions of plain tensors: ranking metrics, and how hard a negative is."""
