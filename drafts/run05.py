"""run.py MODE OUTDIR [sources tuning] : executes nb05.txt statement by statement; MODE tiny|early|final"""
import sys, re, ast, time, os, json, traceback
sys.path.insert(0,'/work/main'); os.chdir('/work/main')
mode,out=sys.argv[1:3]; os.makedirs(out,exist_ok=True)
import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt, torch
torch.set_num_threads(1)
from helpers import zoo, judges, ledger
from helpers.recipes import toy_sd
import diffusers
def tiny():
    torch.manual_seed(0); vae=toy_sd.make_vae(); tok=toy_sd.make_tokenizer(); m=toy_sd.TextToImage(len(tok))
    m.unet=diffusers.UNet2DConditionModel(sample_size=16,in_channels=4,out_channels=4,block_out_channels=(4,4,4,4),layers_per_block=1,norm_num_groups=4,down_block_types=("CrossAttnDownBlock2D",)*3+("DownBlock2D",),up_block_types=("UpBlock2D",)+("CrossAttnUpBlock2D",)*3,cross_attention_dim=64,attention_head_dim=4)
    p=toy_sd.assemble(vae,m); p.vae.float(); p.unet.float(); p.set_progress_bar_config(disable=True); return p
if mode=='tiny': zoo.load=lambda n: tiny()
if mode=='stub':
    import torch.nn.functional as F, types
    def stub(n):
        p=tiny()
        p.vae.decode=lambda z: types.SimpleNamespace(sample=F.interpolate(z[:,:3]*0.5,scale_factor=4.0))
        p.vae.encode=lambda x: types.SimpleNamespace(latent_dist=types.SimpleNamespace(mean=torch.cat([F.avg_pool2d(x,4)*2]*2,1)[:,:4],std=torch.full((len(x),4,16,16),.1)))
        return p
    zoo.load=stub
    g=torch.Generator().manual_seed(0)
    class SJ(judges.Judges):
        def read(self,images,batch=64):
            judges.check_images(images); n=len(images); f=lambda k: torch.rand(n,k,generator=g).pow(4).add(.01).softmax(1) if False else torch.nn.functional.normalize(torch.rand(n,k,generator=g).pow(4)+.01,p=1,dim=1)
            return judges.Reading(f(9),f(2),f(4),f(8),F.avg_pool2d(torch.rand(n,1,64,64,generator=g),9,1,4)[:,0]*2-.5,torch.rand(n,5,generator=g))
    judges.load=lambda *a,**k: SJ((),('lamp',))
if mode=='early':
    def early(n):
        p=diffusers.DiffusionPipeline.from_pretrained('/tmp/w/toy-sd-early',local_files_only=True); p.set_progress_bar_config(disable=True); return p
    zoo.load=early
J='/tmp/w/toy-judge-early'
if mode!='stub' and not (judges.FOLDER/'config.json').exists():
    def jl(*a,**k):
        ms=[]
        for i in range(2):
            torch.manual_seed(i); j=judges.Judge()
            f=f'{J}/judge-{i}.pt'
            if os.path.exists(f): j.load_state_dict(torch.load(f))
            ms.append(j.eval().requires_grad_(False))
        return judges.Judges(tuple(ms),())
    judges.load=jl
known=ledger.load_claims('/tmp/w/claims05.toml'); ledger.load_claims=lambda *a,**k: known
cells=[]
for part in re.split(r"(?m)^# %% ", open('/tmp/w/nb05.txt').read())[1:]:
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
    if 'parameters' in tags and len(sys.argv)>3: body=re.sub(r'SOURCES, TUNING = .*',f'SOURCES, TUNING = {sys.argv[3]}, {sys.argv[4]}',body)
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
