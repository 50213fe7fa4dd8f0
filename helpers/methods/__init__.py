"""One readable paper each: a file, or a folder once it is long. They work on the reader's own models and tensors.

May import nothing of the package: copy the file, or the folder, and it works.
"""
