"""python /tmp/w/unbuild.py NB.ipynb > SRC.txt : the opposite of build.py"""
import sys, nbformat
for c in nbformat.read(sys.argv[1], 4).cells:
    print("# %%", " ".join(["md" if c.cell_type == "markdown" else "code", *c.metadata.get("tags", [])])); print(c.source); print()
