"""Finding the labels that the student confidently contradicts."""
