import torch,sys
torch.set_num_threads(1)
from diffusers import AutoencoderKL
from helpers.recipes import toy_sd as r
from helpers import judges
import matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt
s=torch.load('/work/main/.recipes/toy-sd/image.pt',weights_only=True); print('step',s['step'],s['seconds'])
tok=r.make_tokenizer(); m=r.TextToImage(len(tok)); m.load_state_dict(s['average'])
vae=AutoencoderKL.from_pretrained('/tmp/w/vae_final')
p=r.assemble(vae,m); p.vae.float(); p.unet.float(); p.set_progress_bar_config(disable=True)
n=int(sys.argv[1])
prompts=["a photo of a cat facing left","a photo of a red cat facing right","a sketch of a dog facing left","a photo of a striped blue fish facing left","a photo of a green teapot facing right on white","a photo of a rabbit facing right","a photo of a bird facing left","a photo of a yellow car facing right","a photo of a fox facing left","a photo of a lamp"][:n]
im=r.pictures(p,prompts,0,num_inference_steps=20,guidance_scale=3.0)
fig,ax=plt.subplots(2,(n+1)//2,figsize=(2*(n+1)//2,4.4))
for a,i,t in zip(ax.flat,im,prompts): a.imshow(i.permute(1,2,0)); a.set_title(t[11:35],fontsize=6); a.axis('off')
plt.savefig('/tmp/w/peek.png',dpi=80)
v=judges.judge(im,prompts); print({k:v[k].nanmean().item() for k in v})
