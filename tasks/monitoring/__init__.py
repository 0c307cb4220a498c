"""What a person looks at: cost, state and the report."""
