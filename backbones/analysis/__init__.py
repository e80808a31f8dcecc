"""What the numbers of a trained model are made of: metrics in detail, their intervals, comparisons, and its errors."""
