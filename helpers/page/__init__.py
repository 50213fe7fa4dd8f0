"""What a notebook shows itself with: figures, controls (explore), exercises, the ledger, execution in place, JupyterLab on the reader's copies (lab).

May import nothing of the package but this room.
"""
