"""Every model by name (zoo), random-weight models for tests (small), the judges that read pictures, and networks of one size that learn the same (backbones).

May import toyworld, datasets and methods.
"""
