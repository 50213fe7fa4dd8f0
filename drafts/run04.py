import ast, re, sys, time, traceback, types
import matplotlib.pyplot as plt
def run_page(path, pipe, dino, patches, ns, out="/tmp/w/n4/figs", start=0, stop=10**9, fresh=True):
    import os; os.makedirs(out, exist_ok=True)
    from helpers import zoo
    from transformers import Dinov2Model
    zoo.load = lambda name: pipe
    Dinov2Model.from_pretrained = classmethod(lambda cls, *a, **k: dino)
    src = open(path).read()
    for a, b in patches:
        assert a in src, a
        src = src.replace(a, b)
    total = {}
    for i, part in enumerate(re.split(r"(?m)^# %% ", src)[1:]):
        head, _, body = part.partition("\n")
        if not head.startswith("code") or not (start <= i < stop): continue
        shots = []
        def show(*a, **k):
            for num in plt.get_fignums():
                f = plt.figure(num); name = f"{out}/c{i:03d}_{len(shots)}.png"; f.savefig(name); shots.append(name); plt.close(f)
        plt.show = show
        print(f"--- [{i}] {head} | {body.strip().splitlines()[0][:70]}", flush=True)
        c = time.process_time()
        try:
            tree = ast.parse(body)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, f"cell{i}", "exec"), ns)
            if last is not None:
                v = eval(compile(ast.Expression(last.value), f"cell{i}", "eval"), ns)
                if hasattr(v, "film_strip"):
                    png = v.film_strip(); open(f"{out}/c{i:03d}_control.png", "wb").write(png)
        except BaseException:
            traceback.print_exc(file=sys.stdout); plt.close("all")
        t = time.process_time() - c; total[i] = t
        import os.path
        print(f"    [{t:.1f} s cpu]", *[f"{os.path.getsize(s)//1024} kB" for s in shots], flush=True)
    print("TOTAL", round(sum(total.values()), 1))
    return total
