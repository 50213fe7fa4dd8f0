import torch,sys
torch.set_num_threads(1)
from diffusers import AutoencoderKL
from helpers.recipes import toy_sd as r
from helpers import judges
import matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt
s=torch.load('/work/main/.recipes/toy-sd/image.pt',weights_only=True); print('step',s['step'],s['seconds'])
m=r.TextToImage(len(r.make_tokenizer())); m.load_state_dict(s['average'])
p=r.assemble(AutoencoderKL.from_pretrained('/tmp/w/vae_final'),m); p.vae.float(); p.unet.float(); p.set_progress_bar_config(disable=True)
prompts=r.held_out_prompts(int(sys.argv[1]))
im=r.pictures(p,prompts,0,num_inference_steps=25,guidance_scale=float(sys.argv[2]))
v=judges.judge(im,prompts); print({k:(round(100*x.nanmean().item(),1),int((~x.isnan()).sum())) for k,x in v.items()})
n=min(40,len(im)); fig,ax=plt.subplots(4,10,figsize=(18,8))
for a,i,t in zip(ax.flat,im,prompts): a.imshow(i.permute(1,2,0)); a.set_title(t.replace('a photo of ','').replace('facing ','>'),fontsize=6); a.axis('off')
plt.tight_layout(); plt.savefig('/tmp/w/measure.png',dpi=60)
