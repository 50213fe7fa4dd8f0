import torch,sys
torch.set_num_threads(1)
from pathlib import Path
from diffusers import AutoencoderKL
from helpers.recipes import toy_sd as r, training
s=torch.load('/work/main/.recipes/toy-sd/image.pt',weights_only=True); print('step',s['step'])
m=r.TextToImage(len(r.make_tokenizer())); m.load_state_dict(s['average'])
training.write_folder(r.assemble(AutoencoderKL.from_pretrained('/tmp/w/vae_final'),m),Path('/tmp/w/toy-sd-early'))
