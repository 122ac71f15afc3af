"""What exact fast engines are built of: packed tokens, chunks, products, attention, sampling. It names no family."""
