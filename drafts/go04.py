import sys, os; sys.path.insert(0,'/tmp/w'); os.chdir('/work/main'); sys.path.insert(0,'/work/main')
import matplotlib; matplotlib.use('Agg')
import torch; torch.set_num_threads(1)
from helpers import zoo
from helpers.recipes import toy_dino
import run04
pipe=zoo.load('toy-sd')
zoo.folder=lambda n: n
torch.manual_seed(3); d=toy_dino.make_vit().eval()
if len(sys.argv)>2 and sys.argv[2]=='ck':
    s=torch.load('.recipes/toy-dino/model.pt',weights_only=True)
run04.run_page('/tmp/w/nb04.txt',pipe,d,[("PAIRS = 5 ","PAIRS = 2 "),("ENSEMBLE = 8 ","ENSEMBLE = 2 ")] if sys.argv[1]=='small' else [],{},out='/tmp/w/n4/figs2')
