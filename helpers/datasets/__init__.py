"""What is looked at beside raw toy worlds: real pictures and labels that libraries carry, the bench of classification tasks, pictures made worse.

May import toyworld.
"""
