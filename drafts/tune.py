import torch
from pathlib import Path
from helpers.recipes import toy_sd as r, training, autoencoders
torch.set_num_threads(1)
rank,_=training.join_processes(); dev=torch.device('cpu'); work=Path('.recipes/toy-sd')
vae=r.tune_decoder(r.train_vae(work,dev),work,dev)
r.standardise(vae)
if rank==0:
    print('seconds',vae.seconds)
    vae.eval().half().save_pretrained('/tmp/w/vae_final',safe_serialization=True)
    from diffusers import AutoencoderKL
    v=AutoencoderKL.from_pretrained('/tmp/w/vae_final')
    print('psnr256',autoencoders.reconstruction_psnr(v,r.sample(r.HELD_OUT_SEED,range(256)).image), 'seed9', autoencoders.reconstruction_psnr(v,r.sample(9,range(64)).image), v.config.scaling_factor)
