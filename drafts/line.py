import sys,time; sys.path.insert(0,'/work/main')
import torch, copy
torch.set_num_threads(1)
from helpers.methods import masked_planning as mp
from helpers.toyworld.rebounds import reflect
CELLS, K = 12, 5
def line_clips(count, generator):
    """(count, K, 1, 1, CELLS): a blob that runs between two walls; and where it is (count, K)"""
    start = 1 + (CELLS-3)*torch.rand(count,1,generator=generator)
    speed = (2*torch.rand(count,1,generator=generator)-1)*4
    place,_ = reflect(start+speed*torch.arange(K), torch.tensor(1.0), torch.tensor(CELLS-2.0))
    cells = torch.arange(CELLS)
    return (2*torch.exp(-(cells-place[...,None])**2/1.2)-0.6)[:,:,None,None], place
def pair(width, depth=1, identity="token", seed=0, pd=48, pdepth=3):
    torch.manual_seed(seed)
    planner = mp.Planner(in_channels=1,height=1,width=CELLS,patch=1,frames=K,dim=pd,depth=pdepth,heads=4,mlp_dim=2*pd,identity=identity)
    generator = mp.Generator(in_channels=1,height=1,width=CELLS,patch=1,frames=K,dim=width,depth=depth,heads=2,mlp_dim=2*width,plan_dim=pd,plan_tokens=CELLS,identity=identity)
    return planner, generator
S=mp.make_scheduler()
def train(planner,generator,steps,ratios,batch=64,lr=3e-3,warm=0):
    ps=[*planner.parameters(),*generator.parameters()]
    readout=mp.Readout(planner); ps+= list(readout.parameters())
    opt=torch.optim.AdamW(ps,lr); sch=torch.optim.lr_scheduler.OneCycleLR(opt,lr,total_steps=steps+warm)
    g=torch.Generator().manual_seed(1); losses=[]
    for i in range(steps+warm):
        clean,_=line_clips(batch,g)
        lo,hi=ratios(i/(steps+warm)); r=mp.draw_references(batch,K,(lo,hi),g)
        opt.zero_grad()
        if i<warm: loss=mp.planner_loss(planner,readout,clean,r)
        else:
            t=torch.randint(1000,(batch,),generator=g); eps=torch.randn(clean.shape,generator=g)
            plan=mp.drop_plans(generator,planner(clean,r),0.1,g)
            loss=mp.generator_loss(generator,S,clean,r,t,eps,plan)
        loss.backward(); opt.step(); sch.step(); losses.append(loss.item())
    return losses
def test(planner,generator,n=200,steps=15,cfg=1.0,modes=('own','none','swap')):
    pipe=mp.MarDiniPipeline(planner.eval(),generator.eval(),S); pipe.set_progress_bar_config(disable=True)
    clean,place=line_clips(n,torch.Generator().manual_seed(7)); out={}
    cells=torch.arange(CELLS)
    for task in ('interpolation','expansion'):
        r=mp.references(task,K,2)
        for m in modes:
            eps=torch.randn(clean.shape,generator=torch.Generator().manual_seed(3))
            plan={'own':None,'none':generator.without_plan(n,K),'swap':None}[m]
            if m=='swap': plan=pipe.make_plan(clean,r).roll(1,0)
            f=pipe(clean,r,num_inference_steps=steps,noise=eps,plan=plan).frames
            found=f[:,:,0,0].argmax(-1).float(); masked=~r
            out[task,m]=round(float((found-place).abs()[:,masked].mean()),2)
    return out
if __name__=='__main__':
    for width,depth in ((8,1),(16,1),(32,2)):
        p,g=pair(width,depth); t=time.time()
        l=train(p,g,600,lambda s:(0.2,0.8),warm=300)
        print(width,depth,sum(x.numel() for x in p.parameters()),sum(x.numel() for x in g.parameters()),'%.0f s'%(time.time()-t),'mar %.3f loss %.3f'%(sum(l[280:300])/20,sum(l[-50:])/50),test(p,g),flush=True)
