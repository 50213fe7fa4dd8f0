"""One script a trained model: each makes data/models/<model> from nothing, and goes on where it was interrupted.

May import toyworld, datasets, models, methods and measures.
"""
