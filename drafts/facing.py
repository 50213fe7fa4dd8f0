import torch
torch.set_num_threads(1)
from helpers.recipes import toy_sd as r
d=torch.load('/work/main/.recipes/toy-sd/bank_0_of_2.pt',weights_only=True)
rows=[i for i,c in enumerate(d['captions'][:1500]) if 'facing' in c and 'lamp' not in c][:192]
s=torch.load('/work/main/.recipes/toy-sd/image.pt',weights_only=True); print(s['step'])
tok=r.make_tokenizer(); m=r.TextToImage(len(tok)); m.load_state_dict(s['average']); m.eval()
caps=[d['captions'][i] for i in rows]
flip=lambda c: c.replace('left','#').replace('right','left').replace('#','right')
x0=d['latents'][rows].float(); kept=r.make_scheduler().alphas_cumprod
g=torch.Generator().manual_seed(0)
enc=lambda cs: m.text_encoder(tok(cs,padding='max_length',return_tensors='pt').input_ids)[0]
with torch.no_grad():
    a_,b_=enc(caps),enc([flip(c) for c in caps])
    for t in (300,500,650,800,950):
        a=kept[t]; n=torch.randn(x0.shape,generator=g); x=a.sqrt()*x0+(1-a).sqrt()*n
        tt=torch.full((len(x),),t)
        e=[((m.unet(x,tt,c).sample-n)**2).mean((1,2,3)) for c in (a_,b_)]
        diff=(e[1]-e[0])/a; print(t, 'sigma %.1f'%((1-a)/a).sqrt(), 'loss/a %.4f'%(e[0]/a).mean(), 'flipped minus right %.5f ± %.5f'%(diff.mean(),diff.std()/len(x)**.5))
