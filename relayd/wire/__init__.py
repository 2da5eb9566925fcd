"""What bytes mean: pure functions and sans-I/O machines. Imports neither trio nor another room."""
