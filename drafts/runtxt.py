import sys,re,os
sys.path.insert(0,'/work/main'); os.chdir('/work/main/notebooks')
import matplotlib; matplotlib.use('Agg')
import builtins
src=open(sys.argv[1]).read()
cells=re.split(r'^# %% (md|code)([^\n]*)\n',src,flags=re.M)
import matplotlib.pyplot as plt
n=0
def show(*a,**k):
    global n
    for f in plt.get_fignums():
        plt.figure(f).savefig(f'/tmp/w/{sys.argv[2]}_{n}.png'); n+=1
    plt.close('all')
plt.show=show
ns={'__name__':'__main__'}
import time
ns['get_ipython']=lambda: None
i=1;k=0
while i<len(cells):
    kind,tag,body=cells[i:i+3]; i+=3
    if kind=='code':
        t=time.time()
        exec(compile(body,f'cell{k}','exec'),ns); plt.show=show
        print(f'   [cell {k}: {time.time()-t:.1f} s]',flush=True)
    k+=1
