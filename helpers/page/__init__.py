"""What a notebook shows itself with: figures, controls (explore), exercises, the ledger, and execution in place.

May import nothing of the package but this room.
"""
