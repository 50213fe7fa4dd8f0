"""python /tmp/w/build.py SRC.txt OUT.ipynb : '# %% md' and '# %% code TAG TAG' cells; tag 'hide-cell' also sets jupyter.source_hidden."""
import re, sys, hashlib, nbformat
src, out = sys.argv[1:3]
nb = nbformat.v4.new_notebook()
nb.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
for i, part in enumerate(re.split(r"(?m)^# %% ", open(src).read())[1:]):
    head, _, body = part.partition("\n")
    kind, *tags = head.split()
    cell = nbformat.v4.new_markdown_cell(body.strip("\n")) if kind == "md" else nbformat.v4.new_code_cell(body.strip("\n"))
    cell["id"] = hashlib.sha256(f"{i}{body}".encode()).hexdigest()[:8]
    if tags:
        cell.metadata["tags"] = tags
    if "hide-cell" in tags:
        cell.metadata["jupyter"] = {"source_hidden": True}
    nb.cells.append(cell)
nbformat.write(nb, out)
