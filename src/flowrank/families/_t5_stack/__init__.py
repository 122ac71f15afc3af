"""What models made of T5 stacks share."""
