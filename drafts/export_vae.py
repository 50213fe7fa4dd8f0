import torch
from helpers.recipes import toy_sd as r, autoencoders
torch.set_num_threads(1)
vae=r.make_vae(); vae.load_state_dict(torch.load('.recipes/toy-sd/vae.pt',weights_only=True)['average'])
s=torch.load('.recipes/toy-sd/decoder.pt',weights_only=True); print(s['step'],s['seconds']); a=s['average']
vae.post_quant_conv.load_state_dict({k.split('.',1)[1]:v for k,v in a.items() if k.startswith('post')}); vae.decoder.load_state_dict({k.split('.',1)[1]:v for k,v in a.items() if k.startswith('decoder')})
vae.eval(); r.standardise(vae); vae.half().save_pretrained('/tmp/w/vae_final',safe_serialization=True)
from diffusers import AutoencoderKL
v=AutoencoderKL.from_pretrained('/tmp/w/vae_final')
print('psnr256',autoencoders.reconstruction_psnr(v,r.sample(r.HELD_OUT_SEED,range(256)).image), v.config.scaling_factor)
