"""run07.py OUTDIR"""
import sys, re, ast, time, os, json, traceback
sys.path.insert(0,'/work/main'); os.chdir('/work/main')
out=sys.argv[1]; os.makedirs(out,exist_ok=True)
import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt, torch
from pathlib import Path
torch.set_num_threads(1)
from helpers import zoo, ledger
from helpers.recipes import toy_vit
if not (zoo.MODELS/'toy-vit').exists():
    torch.manual_seed(0); toy_vit.make_vit().half().save_pretrained('/tmp/w/vit_random'); zoo.folder=lambda n: Path('/tmp/w/vit_random')
known=ledger.load_claims('/tmp/w/claims07.toml'); ledger.load_claims=lambda *a,**k: known
cells=[]
for part in re.split(r"(?m)^# %% ", open('/tmp/w/nb07.txt').read())[1:]:
    head,_,body=part.partition("\n"); kind,*tags=head.split()
    if kind=='code': cells.append((tags,body))
G={'__name__':'page'}; n=0; total=0; fig=0
def show():
    global fig
    for i in plt.get_fignums():
        plt.figure(i).savefig(f'{out}/{n:02d}_{fig}.png'); fig+=1
    plt.close('all')
plt.show=show
for n,(tags,body) in enumerate(cells,1):
    if 'parameters' in tags and len(sys.argv)>2: body=body.replace('SPLITS = 5','SPLITS = '+sys.argv[2])
    t=time.process_time(); fig=0
    print(f'--- {n} {tags} {body.strip().splitlines()[0][:80]}',flush=True)
    for node in ast.parse(body).body:
        src=ast.get_source_segment(body,node)
        try:
            if isinstance(node,ast.Expr):
                v=eval(compile(ast.Expression(node.value),f'cell{n}','eval'),G)
                if type(v).__name__=='Control':
                    open(f'{out}/{n:02d}_control.png','wb').write(v.film_strip())
            else: exec(compile(ast.Module([node],[]),f'cell{n}','exec'),G)
        except Exception as e:
            print('  !!',type(e).__name__,str(e)[:300],'in:',src.splitlines()[0][:100]); 
            if not isinstance(e,AssertionError): traceback.print_exc(limit=-2)
    dt=time.process_time()-t; total+=dt
    if dt>1: print(f'  [{dt:.1f} s]',flush=True)
print('total cpu',total)
