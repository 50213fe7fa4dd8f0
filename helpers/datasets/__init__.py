"""What is looked at beside raw toy worlds: real pictures and labels that libraries carry, and the bench of classification tasks.

May import toyworld.
"""
