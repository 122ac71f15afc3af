"""Building blocks of exact fast engines of any family: packed tokens, chunks, products, attention, sampling."""
