"""Every model by name (zoo), random-weight models for tests (small), and the judges that read pictures.

May import toyworld and datasets.
"""
