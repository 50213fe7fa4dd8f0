import sys, torch
from pathlib import Path
from diffusers import AutoencoderKL
from helpers.recipes import toy_sd as r, training
torch.set_num_threads(1)
training.CHECKPOINT_SECONDS=120
rank,world=training.join_processes(); dev=torch.device('cpu'); work=Path('.recipes/toy-sd')
vae=AutoencoderKL.from_pretrained('/tmp/w/vae_final').requires_grad_(False)
bank,captions=r.make_bank(vae,work)
if rank==0:
    from helpers.recipes import autoencoders
    p=r.sample(r.TRAIN_SEED,range(64)); z=autoencoders.encode(vae,p.image)*vae.config.scaling_factor
    rows=[i for i,c in enumerate(p.captions) if not r.held_out(c)]
    print('bank agrees', (z[rows]-bank[:len(rows)].float()).abs().max().item(), len(bank), bank.std().item(), r.STEPS, captions[:3], flush=True)
r.train_image(work,bank,captions,dev)
